"""Stand-ins for who writes: texts by a function of what is asked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ttt_retrofit.util.messages import Message

NUMBERED = re.compile(r"^\[(\d+)\] [^:]+: (.*)$", re.MULTILINE)
HIDDEN = "\n→ "  # before the part that one question is written for


class Scripted:
    """Answers by a function of the last message, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str], name: str = "scripted") -> None:
        self.answer, self.name = answer, name
        self.asked: list[str] = []

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        said = [prompt[-1]["content"] for prompt in prompts]
        self.asked += said
        return [self.answer(text) for text in said]


def script(facts: dict[str, str], questions: dict[str, str], again: dict[str, str] | None = None) -> Scripted:
    """A writer that goes by a script.

    Parameters
    ----------
    facts : a piece of a message, and the sentence that is listed of it.
    questions : a piece of a statement, and the lines that are written about it: a part, "|", a question.
    again : a hidden part, and the one question that is written for it.
    """

    def answer(asked: str) -> str:
        if HIDDEN in asked:
            return (again or {}).get(asked.rpartition(HIDDEN)[2], "")
        if listed := NUMBERED.findall(asked):
            found = [(number, fact) for number, said in listed for piece, fact in facts.items() if piece in said]
            return "\n".join(f"[{number}] {fact}" for number, fact in found)
        return next((lines for piece, lines in questions.items() if piece in asked.splitlines()[-1]), "")

    return Scripted(answer)
