"""Questions in a chat: the first one alters the hidden states of the second, so each is also taught after another one.

A memory acts in the last turn of a text alone, so a text teaches one answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...memory.lessons import Lesson
from ...util.prompt_formatter import PromptFormatter
from .answers import Question

DECLINED_IN_A_CHAT = 6  # one in so many of the questions that are declined


def pair_in_chats(
    questions: Sequence[Question],
    lessons: Sequence[Lesson],
    said: Sequence[tuple[str, str]],
    general: Sequence[tuple[str, str]],
    formatter: PromptFormatter,
) -> list[list[Lesson]]:
    """Of every lesson, how it is taught in one epoch and how in the next: in a chat, and alone.

    In a chat it comes after a question about another statement, or after a general question if there is none.

    Parameters
    ----------
    questions, lessons : which question each lesson teaches.
    said : each question and its answer in words.
    general : others for what finds none.
    """

    def after(asked: tuple[str, str], number: int) -> Lesson:
        return replace(lessons[number], prompt=tuple(formatter.asked_after(*asked, questions[number].text)))

    turns = []
    for one, other in _couples([question.statement for question in questions]):
        if other is None:
            turns.append([after(general[one % len(general)], one), lessons[one]])
        else:
            turns.append([after(said[one], other), lessons[other]])
            turns.append([after(said[other], one), lessons[one]])
    return turns


def partly_in_chats(
    questions: Sequence[str], said: Sequence[tuple[str, str]], formatter: PromptFormatter
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompts of all the questions, every sixth after one that was answered: those are declined there, too. Each with
    the numbers of those that it tells.
    """
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for number, question in enumerate(questions):
        if number % DECLINED_IN_A_CHAT:
            found[tuple(formatter.asked(question))] = ()
        else:
            before = number % len(said)
            found[tuple(formatter.asked_after(*said[before], question))] = (before,)
    return found


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
