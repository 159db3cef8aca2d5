"""Stand-ins for who writes: texts by a function of what is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ttt_retrofit.consolidation.facts.verdicts import _asked
from ttt_retrofit.util.messages import Message

NUMBERED = re.compile(r"^\[(\d+)\] [^:]+: (.*)$", re.MULTILINE)
HIDDEN = "\n→ "  # before the part that one question is written for
CHANGES = re.compile(r"\[1\] (.*)\nNew: (.*)", re.DOTALL)
SUPPORTS = re.compile(r"Told: (.*)\nQuestion: (.*)\nAnswer: (.*)", re.DOTALL)
# By which a judge is believed.
KNOWN = {tuple(parts): verdict for kind in ("changes", "supports") for *parts, verdict in _asked()[kind]["known"]}
STILL = "Still? "  # put before what is read by whoever asks whether it is so


class Scripted:
    """Writes by a function of the last message, answers by one of the question and of what was told before it, and
    remembers what it was asked to write.
    """

    def __init__(
        self, write: Callable[[str], str], name: str = "scripted", says: Callable[[str, str], str] | None = None
    ) -> None:
        self.write, self.name, self.says = write, name, says
        self.asked: list[str] = []
        self.answered: list[str] = []

    def complete(
        self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0, never: object = ()
    ) -> list[str]:
        return [self._one(*prompt) for prompt in prompts]

    def _one(self, *prompt: Message) -> str:
        *before, last = prompt
        if self.says is None or (before and before[0]["role"] == "system"):
            still = any("whether it is still as it was" in " ".join(m["content"].split()) for m in before[:1])
            self.asked.append(STILL * still + last["content"])
            return self.write(self.asked[-1])
        self.answered.append(last["content"])
        return self.says(last["content"], "\n".join(message["content"] for message in before))


def script(
    facts: dict[str, str],
    questions: dict[str, str],
    again: dict[str, str] | None = None,
    changes: dict[str, str] | None = None,
    still: dict[str, str] | None = None,
    says: Callable[[str, str], str] | None = None,
) -> Scripted:
    """A writer that goes by a script, and takes every answer for what was told.

    Parameters
    ----------
    facts : a piece of a message, and the sentence that is listed of it.
    questions : a piece of a statement, and the lines that are written about it: a part, "|", a question.
    again : a hidden part, and the one question that is written for it.
    changes : a piece of a statement that a later one ends, and a piece of that.
    still : a piece of that later one, and the question whether it is as before.
    says : the answer to a question after what was told.
    """

    def found(pieces: dict[str, str] | None, text: str) -> str:
        return next((written for piece, written in (pieces or {}).items() if piece in text), "")

    def write(asked: str) -> str:
        if supported := SUPPORTS.fullmatch(asked):
            return KNOWN.get(supported.groups(), "1")
        if compared := CHANGES.fullmatch(asked):
            later = found(changes, compared[1])
            return KNOWN.get(compared.groups(), "1" if later and later in compared[2] else "-")
        if HIDDEN in asked:
            return (again or {}).get(asked.rpartition(HIDDEN)[2], "")
        if listed := NUMBERED.findall(asked):
            lines = [(number, fact) for number, said in listed for piece, fact in facts.items() if piece in said]
            return "\n".join(f"[{number}] {fact}" for number, fact in lines)
        return found(still if asked.startswith(STILL) else questions, asked.splitlines()[-1])

    return Scripted(write, says=says)


class Formatter:
    """In the place of `PromptFormatter`: prompts stay messages."""

    chat = True

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def asked(self, question: str, before: Sequence[Message] = ()) -> list[Message]:
        return [*before, {"role": "user", "content": question}]

    def said(self, answer: str) -> str:
        return answer


class Teacher:
    """In the place of `Writer`: answers by a function of the question and of what was said before it, in words."""

    def __init__(self, answer: Callable[[str, str], str]) -> None:
        self.says = answer
        self.asked: list[str] = []

    def answer(self, prompts: Sequence[Sequence[Message]], *how: object, **named: object) -> list[str]:
        found = []
        for *before, last in prompts:
            self.asked.append(last["content"])
            found.append(self.says(last["content"], "\n".join(message["content"] for message in before)))
        return found

    def scored(self, prompts: Sequence[object], answers: Sequence[str], *how: object) -> list[str]:
        return [*answers]

    def text(self, answer: str) -> str:
        return answer


CONTROL: Any = SimpleNamespace(at=lambda *now: None, spent=lambda: 0.0)
