"""A user of the server who says, asks, adds, corrects and deletes facts, and knows what must be remembered.

What was acknowledged must be there or gone ever after. Of a request that a kill left without a reply, both may be.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from .model import CODES, code_of
from .writer import CODE, question, sentence

THINGS = ("locker", "bicycle", "garage", "suitcase", "printer", "alarm", "safe", "gate", "tablet", "cellar")
EVERYTHING = {"limit": "1000", "status": "all"}  # facts
MOST = 6  # facts that a user has at a time
PAUSE, POLL = 0.5, 0.5  # seconds
HIDDEN, UNHEARD = "not known after a kill", "unanswered: killed, or down"
ASKS = 0.2  # share of the looks at a change that waits, after which a question is asked
KNOWN, GONE, UNSURE = "known", "gone", "unsure"


class Unanswered(Exception):
    """The server was killed before it replied."""


class Unexpected(Exception):
    """The server replied as it must not."""


@dataclass
class User:
    """One user, in a thread of its own.

    Attributes
    ----------
    codes : what must be known or gone; of those that are unsure, nothing is asked.
    counted : requests, by what they were.
    wrong : what was not as it must be.
    deserted : the server does not come back: nothing is waited for.
    """

    number: int
    url: str
    model: str
    draw: random.Random
    codes: dict[str, str] = field(default_factory=dict)
    counted: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    deserted: bool = False

    def __post_init__(self) -> None:
        self.identity = f"user {self.number:02d}"
        self._client = httpx.Client(timeout=300)

    def live(self, over: Callable[[], bool]) -> None:
        """Until it is over. What the server could not reply to is tried no second time."""
        acts = {self.say: 3, self.ask: 4, self.add: 2, self.correct: 2, self.forget: 2, self.look: 2, self.erase: 0.2}
        while not over():
            (act,) = self.draw.choices([*acts], [*acts.values()])
            try:
                act()
            except Unanswered:
                self.counted[UNHEARD] += 1
                time.sleep(2 * PAUSE)
            except Unexpected as reply:
                self.wrong.append(str(reply))
            time.sleep(PAUSE * self.draw.random())

    # ------------------------------------------------------------------ what it does

    def say(self) -> None:
        """Tell the model something, in a new conversation."""
        if self._full():
            return
        code = self._new_code()
        self.codes[code] = UNSURE
        self._chat(sentence(self._thing(), code), "said")
        self.codes[code] = KNOWN

    def ask(self) -> None:
        """In a new conversation."""
        self._chat(question(self._thing()), "asked")

    def add(self) -> None:
        if self._full():
            return
        code = self._new_code()
        self.codes[code] = UNSURE
        self._change("added", "POST", "facts", json={"text": sentence(self._thing(), code)}, known=code)

    def correct(self) -> None:
        """Put another code in the place of one that is memory already; other facts that tell it are deleted first."""
        if self._full(spare=True) or (fact := self._fact()) is None:
            return
        old, code = CODE.search(fact["text"]), self._new_code()
        assert old is not None
        self.codes |= {old[0]: UNSURE, code: UNSURE}
        if not self._forgotten(old[0], but=fact["id"]):
            return
        body = {"text": sentence(self._thing(), code), "purge": True}
        if self._change("corrected", "POST", "facts", fact["id"], json=body, known=code):
            if self._telling(old[0], but=""):
                self.wrong.append(f"{old[0]} was corrected, and is there")
            self._forgotten(old[0])
            self.look()

    def forget(self) -> None:
        """Delete every fact that tells a code: the model may have repeated it."""
        if (fact := self._fact()) is None:
            return
        old = CODE.search(fact["text"])
        assert old is not None
        self.codes[old[0]] = UNSURE
        self._forgotten(old[0])
        self.look()

    def _forgotten(self, code: str, but: str = "") -> bool:
        """Delete the facts that tell a code, all but one. Whether that was done."""
        done: set[str] = set()
        while facts := self._telling(code, but):
            if facts[0]["id"] in done:
                self.wrong.append(f"a deletion of {code} was acknowledged, and was not done")
                return False
            done.add(facts[0]["id"])
            if not self._change("deleted", "DELETE", "facts", facts[0]["id"], params={"purge": "true"}):
                return False
        if not but:
            self.codes[code] = GONE
        return True

    def _telling(self, code: str, but: str) -> list[dict[str, Any]]:
        reply = self._ask("GET", self._address("facts"), allowed=(200, 404), params=EVERYTHING)
        facts = reply.json()["data"] if reply.status_code == 200 else []
        return [fact for fact in facts if code in fact["text"] and fact["id"] != but]

    def erase(self) -> None:
        """Delete everything that is stored of the user."""
        before = dict(self.codes)
        self.codes = dict.fromkeys(self.codes, UNSURE)
        reply = self._ask("DELETE", self._address(), allowed=(200, 404))
        self.codes = dict.fromkeys(self.codes, GONE) if reply.status_code == 200 else before
        self.counted["erased"] += 1
        self.look()

    def look(self) -> None:
        """Whether everything is there that must be, and nothing else."""
        before = dict(self.codes)
        told = self._remembered()
        self.counted["looked"] += 1
        self._check("its facts and messages", " ".join(told))
        found = {match[0] for text in told for match in CODE.finditer(text)}
        for code, state in before.items():
            if state == KNOWN and code not in found:
                self.wrong.append(f"{code} was acknowledged, and is lost")
            if state == GONE and code in found:
                self.wrong.append(f"{code} was deleted, and is there")

    # ------------------------------------------------------------------ requests

    def _chat(self, text: str, what: str) -> None:
        body = {"model": self.model, "messages": [{"role": "user", "content": text}], "user": self.identity}
        began = time.monotonic()
        reply = self._ask("POST", f"{self.url}/v1/chat/completions", json=body | {"max_tokens": 8, "temperature": 1.0})
        self.latencies.append(time.monotonic() - began)
        self.counted[what] += 1
        answer = reply.json()["choices"][0]["message"]["content"]
        self._check("an answer", answer)
        found = {match[0] for match in CODE.finditer(answer)}
        self.counted["answers with a code of the user's own"] += bool(found & self.codes.keys())
        for code in found:
            if self.codes.get(code) == GONE:
                self.wrong.append(f"{code} was deleted, and is answered")

    def _change(self, what: str, method: str, *behind: str, known: str | None = None, **request: Any) -> bool:
        """Ask for a change, and wait for its end, also across kills: a change that was acknowledged is done.

        known : a code that is there when it is done.

        Returns
        -------
        Whether it was done; where a kill hid that, it must have been.
        """
        reply = self._ask(method, self._address(*behind), allowed=(202, 404, 429), **request)
        if reply.status_code != 202:
            self.counted[f"refused with {reply.status_code}"] += 1
            return False
        status = self._ended(reply.json()["id"])
        self.counted[what if status == "accepted" else f"{what}, then {status}"] += 1
        if status == "failed":
            self.wrong.append(f"a change failed: {what}")
        done = status in ("accepted", HIDDEN)
        if done and known is not None:
            self.codes[known] = KNOWN
            self.look()
        return done

    def _ended(self, change: str) -> str:
        """How a change ended; questions are asked meanwhile. One that ended before a kill is not known after it, and
        was done or refused then.
        """
        while True:
            try:
                reply = self._ask("GET", self._address("changes", change), allowed=(200, 404))
                if reply.status_code == 404:
                    return HIDDEN
                if reply.json()["status"] not in ("waiting", "working"):
                    return str(reply.json()["status"])
                if self.draw.random() < ASKS:
                    self.ask()
            except Unanswered:
                if self.deserted:
                    raise
                self.counted[UNHEARD] += 1
            time.sleep(POLL)

    def _fact(self) -> dict[str, Any] | None:
        """One that is memory, and whose state is sure."""
        reply = self._ask("GET", self._address("facts"), allowed=(200, 404), params={"limit": 1000})
        facts = reply.json()["data"] if reply.status_code == 200 else []
        self._check("its facts", reply.text)
        sure = [fact for fact in facts if (found := CODE.search(fact["text"])) and self.codes.get(found[0]) == KNOWN]
        return self.draw.choice(sure) if sure else None

    def _remembered(self) -> list[str]:
        """The messages that are not memory yet, and then what is: what becomes memory meanwhile is seen."""
        told = []
        for resource, text, asked in (("messages", "content", {}), ("facts", "text", EVERYTHING)):
            reply = self._ask("GET", self._address(resource), allowed=(200, 404), params=asked)
            told += [one[text] for one in reply.json()["data"]] if reply.status_code == 200 else []
        return told

    def _ask(self, method: str, address: str, allowed: tuple[int, ...] = (200,), **request: Any) -> httpx.Response:
        while True:
            try:
                reply = self._client.request(method, address, **request)
            except httpx.TransportError as error:
                raise Unanswered from error
            if reply.status_code == 429 and 429 not in allowed:
                self.counted["told to wait"] += 1
                time.sleep(PAUSE)
                continue
            if reply.status_code == 503:
                raise Unanswered
            if reply.status_code not in allowed:
                raise Unexpected(f"{method} was answered {reply.status_code}: {reply.text[:200]}")
            return reply

    def _address(self, *behind: str) -> str:
        return "/".join([f"{self.url}/v1/memories/user%20{self.number:02d}", *behind])

    # ------------------------------------------------------------------ codes

    def _check(self, where: str, text: str) -> None:
        others = {match[0] for match in CODE.finditer(text) if int(match[1]) != self.number}
        if others:
            self.wrong.append(f"{sorted(others)} in {where} of user {self.number:02d}")

    def _full(self, spare: bool = False) -> bool:
        """Whether no other code may be known; `spare` where one goes for it."""
        return len(self.codes) == CODES or (sum(s != GONE for s in self.codes.values()) >= MOST and not spare)

    def _thing(self) -> str:
        return self.draw.choice(THINGS)

    def _new_code(self) -> str:
        return code_of(self.number, len(self.codes))
