"""`Turn`: a question and its answer, as the client of a server sends them again and again.

A turn is identified by its question and the answer before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..util.messages import STUDIED, Message


@dataclass(frozen=True)
class Turn:
    """A question, the answer to it, and the answer before it."""

    previous_answer: str | None
    question: str
    answer: str

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.previous_answer, self.question]).encode()).hexdigest()[:32]

    def digest_as_first(self) -> str:
        """The digest of the same question in a conversation that begins with it."""
        return Turn(None, self.question, "").digest()

    def messages(self) -> tuple[Message, Message]:
        return {"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}


def is_digest(item: Any) -> bool:
    """Whether it is a turn's digest, as `Turn.digest` writes it."""
    return isinstance(item, str) and re.fullmatch(r"[0-9a-f]{32}", item) is not None


def turns(messages: Sequence[Message]) -> list[Turn]:
    """The turns of a conversation, without system prompts, calls of tools and what those gave back. Messages of
    one role that follow each other are joined.
    """
    merged: list[Message] = []
    for message in messages:
        if message["role"] not in STUDIED or (message.get("tool_calls") and not message["content"]):
            continue
        if merged and merged[-1]["role"] == message["role"]:
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n\n{message['content']}"}
        else:
            merged.append(dict(message))
    previous_answer, found = None, []
    for index, message in enumerate(merged):
        if message["role"] == "user":
            answer = merged[index + 1]["content"] if index + 1 < len(merged) else ""
            found.append(Turn(previous_answer, message["content"], answer))
        else:
            previous_answer = message["content"]
    return found
