"""Questions in a chat: the first one alters the hidden states of the second, so each is also taught after another one.

Two lessons in one text cost what they cost apart. Their order changes from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...memory.lessons import Lesson
from ...util.prompt_formatter import PromptFormatter
from .answers import Question

DECLINED_IN_A_CHAT = 6  # one in so many of the questions that are declined


@dataclass(frozen=True)
class ChatLesson:
    """A lesson, and the one before it in the chat: its prompt begins with the prompt and the answer of that one."""

    lesson: Lesson
    first: Lesson | None = None


def pair_in_chats(
    questions: Sequence[Question],
    lessons: Sequence[Lesson],
    said: Sequence[tuple[str, str]],
    general: Sequence[tuple[str, str]],
    formatter: PromptFormatter,
) -> list[list[ChatLesson]]:
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
        return replace(lessons[number], prompt=tuple(formatter.asked_after(*asked, questions[number].text)))

    turns = []
    for one, other in _couples([question.statement for question in questions]):
        if other is None:
            turns.append([ChatLesson(after(general[one % len(general)], one)), ChatLesson(lessons[one])])
            continue
        second, turned = after(said[one], other), after(said[other], one)
        if _begins(second, lessons[one]) and _begins(turned, lessons[other]):
            turns.append([ChatLesson(second, lessons[one]), ChatLesson(turned, lessons[other])])
        else:
            turns += [[ChatLesson(second), ChatLesson(lessons[other])], [ChatLesson(turned), ChatLesson(lessons[one])]]
    return turns


def partly_in_chats(
    questions: Sequence[str], said: Sequence[tuple[str, str]], formatter: PromptFormatter
) -> list[list[int]]:
    """Prompts of all the questions, every sixth after one that was answered: those are declined there, too."""
    return [
        formatter.asked_after(*said[number % len(said)], question)
        if number % DECLINED_IN_A_CHAT == 0
        else formatter.asked(question)
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
