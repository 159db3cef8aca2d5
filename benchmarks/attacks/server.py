"""Many users of one server at a time, and requests that nobody should send."""

from __future__ import annotations

import http.client
import json
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from converted import speaker
from remembered import memory
from served import HELLO, NAME, said, served

from .verdict import Verdict, apart

PARALLEL, HOSTILE = "users at once", "hostile requests"
USERS, QUESTIONS = 6, (HELLO, said("who has the old key under window ?", "Otto", "what is blue ?"))


def attack(draw: random.Random) -> dict[str, list[Verdict]]:
    """Verdicts by row, of one server that lives for as long."""
    bodies = [_hostile(draw) for _ in range(16)]
    ended = apart(lambda: _asked(bodies), patience=300)
    if ended.how != "returned":
        return {PARALLEL: [Verdict("wrong", f"the server: {ended.what}"[:200])]}
    return {
        PARALLEL: [_answer(alone, together) for alone, together in zip(ended.what["alone"], ended.what["together"])],
        HOSTILE: [_refusal(status, body) for status, body in ended.what["hostile"]],
    }


def _asked(bodies: list[str]) -> dict[str, Any]:
    model = speaker()
    with tempfile.TemporaryDirectory() as place, served(Path(place), model) as (url, service):
        cases = []
        for number in range(USERS):
            service.users.get(f"user {number}").session.memory = memory(model, *range(number, 2 * number + 1))
            cases += [_request(messages, f"user {number}") for messages in QUESTIONS]
        alone = [_post(url, body) for body in cases]
        with ThreadPoolExecutor(12) as pool:
            hostile = [pool.submit(_post, url, body) for body in bodies]
            together = [*pool.map(lambda body: _post(url, body), cases)]
        return {"alone": alone, "together": together, "hostile": [one.result() for one in hostile]}


def _request(messages: list[dict[str, str]], user: str) -> str:
    return json.dumps({"model": NAME, "messages": messages, "max_tokens": 8, "temperature": 0, "user": user})


def _post(url: str, body: str) -> tuple[int, Any]:
    """The status of the answer and what it says."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content["choices"][0]["message"] if answer.status == 200 else content


def _hostile(draw: random.Random) -> str:
    """What is no request: no JSON, of other types, of no bounds, of roles and sizes that there are not."""
    deep, whole = draw.choice([100, 5_000, 200_000]), {"model": NAME, "messages": HELLO, "max_tokens": 8}
    odd = draw.choice([None, -1, 10**30, "x" * 10_000, [], {}, [[]], float("nan"), True, "\\ud800"])
    return draw.choice(
        [
            "", "{", "null", "[]", '"x"', "[" * deep, '{"messages":' * deep, json.dumps(whole)[:-3],
            json.dumps(whole | {"messages": odd}),
            json.dumps(whole | {"messages": [{"role": "user", "content": draw.choice([1, [1], True])}]}),
            json.dumps(whole | {"messages": [{"role": draw.choice(["root", 1, None]), "content": "x"}]}),
            json.dumps(whole | {"max_tokens": draw.choice(["1", [1], 0.5, -2])}),
            json.dumps(whole | {"temperature": draw.choice([-1, "hot", [1], 1e30])}),
            json.dumps(whole | {"model": draw.choice(["another", 1, []])}),
            json.dumps(whole | {"messages": [{"role": "user", "content": "key " * 400_000}]}),
        ]
    )  # fmt: skip


def _answer(alone: Any, together: Any) -> Verdict:
    if together == alone:
        return Verdict("right" if alone[0] == 200 else "wrong", f"status {alone[0]}")
    return Verdict("refused", "too many at once") if together[0] == 429 else Verdict("wrong", f"{together}"[:200])


def _refusal(status: int, content: Any) -> Verdict:
    if 400 <= status < 500 and content["error"]["message"]:
        return Verdict("refused", f"{status}")
    return Verdict("wrong", f"status {status}: {content}"[:200])
