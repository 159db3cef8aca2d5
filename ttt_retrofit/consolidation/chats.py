"""Questions in a chat: what comes first in it alters all that follows, so each is taught after another one, too.

Two that are learned one after the other in one text cost what they cost apart. Their order changes from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..memory.lessons import Lesson
from ..util.phrasing import Phrasing
from .study import Question

DECLINED_IN_A_CHAT = 6  # one in so many of the questions that are declined


@dataclass(frozen=True)
class Chat:
    """A lesson, and the one whose prompt and answer its prompt begins with: learned in the same text."""

    lesson: Lesson
    first: Lesson | None = None


def in_turns(
    questions: Sequence[Question],
    lessons: Sequence[Lesson],
    said: Sequence[tuple[str, str]],
    general: Sequence[tuple[str, str]],
    phrasing: Phrasing,
) -> list[list[Chat]]:
    """All lessons as texts; of each, how it is taught in one epoch and how in the next.

    Two questions about different statements share a text, in either order. What finds no other comes after a general
    question and alone in turn, and so do two that a chat puts together with other tokens than alone.

    Parameters
    ----------
    questions, lessons : which question each lesson teaches.
    said : each question and its answer in words.
    general : others for what finds none.
    """

    def after(asked: tuple[str, str], number: int) -> Lesson:
        return replace(lessons[number], prompt=tuple(phrasing.asked_after(*asked, questions[number].text)))

    turns = []
    for one, other in _couples([question.statement for question in questions]):
        if other is None:
            turns.append([Chat(after(general[one % len(general)], one)), Chat(lessons[one])])
            continue
        second, turned = after(said[one], other), after(said[other], one)
        if _begins(second, lessons[one]) and _begins(turned, lessons[other]):
            turns.append([Chat(second, lessons[one]), Chat(turned, lessons[other])])
        else:
            turns += [[Chat(second), Chat(lessons[other])], [Chat(turned), Chat(lessons[one])]]
    return turns


def some_in_a_chat(questions: Sequence[str], said: Sequence[tuple[str, str]], phrasing: Phrasing) -> list[list[int]]:
    """Prompts of all the questions, every sixth after one that was answered: those are declined there, too."""
    return [
        phrasing.asked_after(*said[number % len(said)], question)
        if number % DECLINED_IN_A_CHAT == 0
        else phrasing.asked(question)
        for number, question in enumerate(questions)
    ]


def _begins(chat: Lesson, first: Lesson) -> bool:
    alone = (*first.prompt, *first.answer)
    return chat.prompt[: len(alone)] == alone


def _couples(statements: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """Numbers, two by two, about different statements and far off in the list; None where none is left."""
    count = len(statements)
    left = dict.fromkeys(range(count))
    while left:
        one = next(iter(left))
        del left[one]
        others = ((one + count // 2 + step) % count for step in range(count))
        other = next((i for i in others if i in left and statements[i] != statements[one]), None)
        if other is not None:
            del left[other]
        yield one, other
