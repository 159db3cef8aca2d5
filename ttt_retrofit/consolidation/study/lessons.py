"""Questions and statements as lessons: what is asked without the context, and every token of the answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...memory.lessons import Lesson, LessonKind
from ...util.prompt_formatter import PromptFormatter
from ..facts.checks import WORD, verbatim
from ..writer import Answer
from .answers import Question
from .statements import Statement

GAP = "____"


def lesson(question: Question, formatter: PromptFormatter) -> Lesson:
    """A question and the teacher's answer to it, without the context."""
    given = question.answer
    prompt = tuple(formatter.asked(question.text))
    return Lesson("fact", prompt, given.ids, given.indices, given.logprobs, question.held_out)


def certain(kind: LessonKind, prompt: list[int], ids: list[int]) -> Lesson:
    """A lesson whose every token is sure."""
    sure = Answer.certain(ids)
    return Lesson(kind, tuple(prompt), sure.ids, sure.indices, sure.logprobs)


def quotes(
    statements: Sequence[Statement], asked: Collection[int], outdated: Collection[int], formatter: PromptFormatter
) -> list[Lesson]:
    """Statements that nothing could be asked about, word by word: with a gap they ask for themselves."""
    return [
        certain("text", formatter.asked(with_gap(statement.text)), formatter.said(statement.text))
        for number, statement in enumerate(statements)
        if number not in asked and number not in outdated
    ]


def with_gap(text: str) -> str:
    """A statement with its last name or number hidden, or else its last word."""
    words = list(WORD.finditer(text))
    told = set(verbatim(text))
    hidden = next((m for m in reversed(words) if m[0] in told), words[-1] if words else None)
    return text if hidden is None else text[: hidden.start()] + GAP + text[hidden.end() :]
