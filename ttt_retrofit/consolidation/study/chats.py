"""Questions in a chat: what was said before alters the hidden states of a question, and tempts a model to repeat it. So
each is also taught after one to five turns: about other statements, about the world, and such as were declined.

A memory acts in the last turn of a text alone, so a text teaches one answer. A few chats are shared by all questions,
since what comes before a last turn is read once (`lesson_pasts`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ...memory.lessons import Lesson
from ...util.messages import Message, exchanges
from ...util.prompt_formatter import PromptFormatter
from .answers import Question

LONGEST = 5  # turns before a question
CHATS = 12  # so many are shared
PERSONAL, GENERAL, DECLINED = "personal", "general", "declined"
KINDS = (PERSONAL, PERSONAL, GENERAL, DECLINED)  # of their turns
DECLINED_IN_A_CHAT = 3  # one in so many of the questions that are declined


@dataclass(frozen=True)
class Chat:
    """Turns that came before."""

    turns: tuple[tuple[str, str], ...]  # what was asked, and the answer
    numbers: frozenset[int]  # of the questions among them
    statements: frozenset[int]  # that they are about

    @property
    def messages(self) -> list[Message]:
        return exchanges(self.turns)


def chats(
    questions: Sequence[Question],
    said: Sequence[tuple[str, str]],
    general: Sequence[tuple[str, str]],
    declined: Sequence[tuple[str, str]],
) -> list[Chat]:
    """Chats of one to `LONGEST` turns, each about few of the statements.

    Parameters
    ----------
    said : each question and its answer in words.
    general : questions about the world, answered.
    declined : questions that nothing was told about, with how they are declined.
    """
    personal = _far_apart([question.statement for question in questions])
    others = {GENERAL: itertools.cycle(general), DECLINED: itertools.cycle(declined or general)}
    found = []
    for number in range(CHATS):
        turns, numbers = [], []
        for turn in range(_length(number)):
            kind = KINDS[(number + turn) % len(KINDS)]
            if kind == PERSONAL:
                numbers.append(next(personal))
            turns.append(said[numbers[-1]] if kind == PERSONAL else next(others[kind]))
        found.append(Chat(tuple(turns), frozenset(numbers), frozenset(questions[n].statement for n in numbers)))
    # What is about a statement that all of them tell comes after the world alone.
    return [*found, Chat((next(others[GENERAL]),), frozenset(), frozenset())]


def _length(number: int) -> int:
    """Every other chat has one turn, the others more."""
    return 2 + number // 2 % (LONGEST - 1) if number % 2 else 1


def in_chats(
    questions: Sequence[Question],
    lessons: Sequence[Lesson],
    before: Sequence[Chat],
    formatter: PromptFormatter,
) -> list[list[Lesson]]:
    """Of every lesson, how it is taught in one epoch and how in the next: after one turn, alone, after several, alone.

    Parameters
    ----------
    questions, lessons : which question each lesson teaches.
    before : of which those are taken that do not tell its statement.
    """
    found = []
    for number, (question, alone) in enumerate(zip(questions, lessons)):
        untold = [chat for chat in before if question.statement not in chat.statements]
        short = [chat for chat in untold if len(chat.turns) == 1]  # about the world, if nothing else
        turns = []
        for some in (short, [chat for chat in untold if chat not in short] or short):
            prompt = formatter.asked(question.text, some[number % len(some)].messages)
            turns += [replace(alone, prompt=tuple(prompt)), alone]
        found.append(turns)
    return found


def partly_in_chats(
    questions: Mapping[str, tuple[int, ...]], before: Sequence[Chat], formatter: PromptFormatter
) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Prompts of all the questions, every third after a chat: those are declined there, too. Each with the numbers of
    the studied questions that it tells; `questions` has those that each of them tells alone.
    """
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    for number, (question, told) in enumerate(questions.items()):
        if number % DECLINED_IN_A_CHAT:
            found[tuple(formatter.asked(question))] = told
        else:
            chat = before[number // DECLINED_IN_A_CHAT % len(before)]
            found[tuple(formatter.asked(question, chat.messages))] = (*told, *sorted(chat.numbers))
    return found


def _far_apart(statements: Sequence[int]) -> Iterator[int]:
    """Numbers of questions for ever, one about each statement before the next about any."""
    left: dict[int, list[int]] = {}
    for number, statement in enumerate(statements):
        left.setdefault(statement, []).append(number)
    for turn in itertools.count():
        for some in left.values():
            yield some[turn % len(some)]
