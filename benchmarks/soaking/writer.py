"""A server with OpenAI's protocol that writes for the model: it knows sentences of one form, and is never wrong.

With it a tiny random model makes memories of what is said, in seconds.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from scripted import CHANGES, HIDDEN, KNOWN, NUMBERED, SUPPORTS, Scripted

CODE = re.compile(r"U(\d\d)X(\d{4})")  # of a user, and of one fact
SENTENCE = re.compile(r"The code of my (\w+) is (U\d\dX\d{4})\.")


def sentence(thing: str, code: str) -> str:
    return f"The code of my {thing} is {code}."


def question(thing: str) -> str:
    return f"What is the code of my {thing}?"


def _write(asked: str) -> str:
    """A verdict, a question about a hidden part, the facts of numbered messages, or questions about a statement."""
    if supported := SUPPORTS.fullmatch(asked):
        return KNOWN.get(supported.groups(), "1")
    if compared := CHANGES.fullmatch(asked):
        return KNOWN.get(compared.groups(), "-")
    if HIDDEN in asked:
        found = re.search(r"code of my (\w+)", asked)
        return f"Which code has my {found[1]}?" if found else ""
    if listed := NUMBERED.findall(asked):
        told = [(number, found[0]) for number, said in listed if (found := SENTENCE.search(said))]
        return "\n".join(f"[{number}] {fact}" for number, fact in told) or "-"
    found = SENTENCE.search(asked.splitlines()[-1])
    return f"{found[2]} | {question(found[1])}\n{found[2]} | Tell me the code of my {found[1]}." if found else "-"


def _answer(asked: str, told: str) -> str:
    """The last thing that was told of what is asked."""
    found = [match for match in SENTENCE.finditer(told) if match[1] in asked]
    return f"The code of your {found[-1][1]} is {found[-1][2]}." if found else "I do not know."


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    writer = Scripted(_write, says=_answer)

    def do_POST(self) -> None:
        asked: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        (text,) = self.writer.complete([asked["messages"]], 0)
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted", "choices": [message]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@contextmanager
def writing() -> Iterator[str]:
    """The address of the writer, while it runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
