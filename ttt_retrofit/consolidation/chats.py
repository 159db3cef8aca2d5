"""Questions in a chat: what comes first in it alters all that follows, so some are taught after another one.

Two that are learned one after the other in one text cost what they cost apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..memory.lessons import Lesson
from .study import Question
from .writer import Phrasing

IN_A_CHAT = 6  # one question in so many comes second


def chatted(
    questions: Sequence[Question],
    lessons: Sequence[Lesson],
    said: Sequence[tuple[str, str]],
    general: Sequence[tuple[str, str]],
    phrasing: Phrasing,
) -> dict[int, tuple[Lesson, int | None]]:
    """Every sixth lesson after a question about something else, by its number, and the number of the lesson that is
    learned with it; None where that is a general one, or is put into a chat with other tokens than alone.

    Parameters
    ----------
    questions, lessons : which question each lesson teaches.
    said : each question and its answer in words.
    general : others for where all questions are about one statement.
    """
    found: dict[int, tuple[Lesson, int | None]] = {}
    firsts: set[int] = set()
    for number in range(0, len(questions), IN_A_CHAT):
        first = _another(questions, number, firsts)
        if first is not None:
            firsts.add(first)
        asked, replied = general[number % len(general)] if first is None else said[first]
        prompt = tuple(phrasing.asked_after(asked, replied, questions[number].text))
        alone = () if first is None else (*lessons[first].prompt, *lessons[first].answer)
        found[number] = (
            replace(lessons[number], prompt=prompt),
            first if alone and prompt[: len(alone)] == alone else None,
        )
    return found


def some_in_a_chat(questions: Sequence[str], said: Sequence[tuple[str, str]], phrasing: Phrasing) -> list[list[int]]:
    """Prompts of all the questions, every sixth after one that was answered: those are declined there, too."""
    return [
        phrasing.asked(question) if number % IN_A_CHAT else phrasing.asked_after(*said[number % len(said)], question)
        for number, question in enumerate(questions)
    ]


def _another(questions: Sequence[Question], number: int, taken: set[int]) -> int | None:
    """The question to come first: about another statement, from far off in the list, in no chat yet."""
    count = len(questions)
    others = ((number + count // 2 + step) % count for step in range(count))
    free = (i for i in others if i % IN_A_CHAT and i not in taken)
    return next((i for i in free if questions[i].statement != questions[number].statement), None)
