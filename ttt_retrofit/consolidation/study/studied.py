"""The study of a context: its statements, what is asked about them, and what the teacher answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from ...util.prompt_formatter import PromptFormatter
from ..config import ConsolidationConfig
from ..control import Control
from ..facts.checks import folded, verbatim
from ..facts.languages import nearest, shown
from ..facts.listing import Listed, facts_of
from ..facts.related import Related
from ..facts.writers import FactWriter
from ..pieces import Context
from ..prompts import Prompts
from ..statements import Statement, of_conversation
from ..writer import Writer
from .answers import Asking, Question, answer
from .questions import ALIKE, QuestionDraft, ask, ask_again, distinct, resemblance

TRIES = 2  # of writing a question for verification that is not studied


@dataclass(frozen=True)
class Studied:
    """What is known about a context before anything is learned."""

    statements: tuple[Statement, ...]
    questions: tuple[Question, ...] = ()  # those held out are asked in verification
    outdated: dict[int, int] = field(default_factory=dict)  # statements, each with the later one that changes it
    dropped: int = 0  # sentences of the writer that failed a check

    @property
    def asked(self) -> list[Question]:
        """What is taught."""
        return [question for question in self.questions if not question.held_out]

    @property
    def held_out(self) -> list[Question]:
        return [question for question in self.questions if question.held_out]

    @property
    def holding(self) -> list[Statement]:
        """The statements that hold at the end of the context."""
        return [statement for number, statement in enumerate(self.statements) if number not in self.outdated]


@dataclass(frozen=True)
class Studying:
    """Who studies, and how."""

    context: Context
    teacher: Writer
    writer: FactWriter
    formatter: PromptFormatter
    prompts: Prompts
    config: ConsolidationConfig
    control: Control

    def study(self, own_questions: Sequence[str]) -> Studied:
        """Own questions take the place of those that the writer writes."""
        statements, dropped = self._statements(listed=not own_questions)
        if own_questions:
            related = Related([statement.source for statement in statements])
            near = {text: related.to(text, 1) for text in own_questions}
            drafts = [QuestionDraft(t, near[t][0] if near[t] else -1, by_user=True) for t in own_questions]
        else:
            languages = shown(self.context.words)
            written = ask(statements, self.writer, languages, self.config.wordings, self._at("questions"))
            drafts = distinct(written)
        asking = Asking(self.formatter, self.prompts, nearest(self.context.words))
        found = answer(drafts, statements, self.context.pieces, self.teacher, asking, self.config, self.control)
        outdated = _outdated(found.questions, found.moved)
        held_out = () if own_questions else self._held_out(statements, found.questions, outdated, asking)
        holding = [q for q in found.questions if q.statement not in outdated]
        return Studied(statements, (*holding, *held_out), outdated, dropped)

    def _statements(self, listed: bool) -> tuple[tuple[Statement, ...], int]:
        """Facts that the writer lists, or a document's sentences; of too many, those with names and numbers."""
        statements, dropped = self.context.statements, 0
        if self.context.conversation:
            found = facts_of(self.context.turns, self.writer, self._at("facts")) if listed else Listed((), ())
            statements, dropped = of_conversation(self.context.turns, found), len(found.dropped)
        if len(statements) > self.config.most_statements:
            telling = sorted(range(len(statements)), key=lambda n: not verbatim(statements[n].text))
            statements = tuple(statements[n] for n in sorted(telling[: self.config.most_statements]))
        return statements, dropped

    def _held_out(
        self, statements: Sequence[Statement], studied: Sequence[Question], outdated: dict[int, int], asking: Asking
    ) -> list[Question]:
        """A question for every statement that holds, by another prompt, worded as none that is studied."""
        parts = {q.statement: " ".join(sorted(q.value)) for q in reversed(studied) if q.statement not in outdated}
        wanted = {number: _as_written(part, statements[number]) for number, part in parts.items() if number >= 0}
        languages = shown(self.context.words)
        texts: dict[int, list[str]] = {}
        for question in studied:
            texts.setdefault(question.statement, []).append(question.text)
        found: dict[int, Question] = {}
        for seed in range(1, TRIES + 1):
            left = [(number, part) for number, part in wanted.items() if number not in found]
            if not left:
                break
            drafts = ask_again(statements, left, self.writer, languages, seed)
            new = [d for d in drafts if all(resemblance(d.text, t) <= ALIKE for t in texts[d.statement])]
            given = answer(new, statements, self.context.pieces, self.teacher, asking, self.config, self.control)
            found |= {q.statement: replace(q, held_out=True) for q in given.questions if q.statement in wanted}
        return [found[number] for number in sorted(found)]

    def _at(self, stage: str) -> Callable[[int, int], None]:
        return partial(self.control.at, stage)


def _as_written(value: str, statement: Statement) -> str:
    """A value as its statement writes it, where the words stand together; else its first word."""
    at = folded(statement.text).find(value)
    if at >= 0 and len(folded(statement.text)) == len(statement.text):
        return statement.text[at : at + len(value)]
    words = value.split()
    return next((word for word in statement.text.split() if folded(word).strip(".,;:!?") in words), value)


def _outdated(questions: Sequence[Question], moved: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Statements of which every answer is given by a later one, each with the one that gives most."""
    holding = {question.statement for question in questions}
    later: dict[int, Counter[int]] = {}
    for statement, by in moved:
        if statement not in holding:
            later.setdefault(statement, Counter())[by] += 1
    return {statement: counts.most_common(1)[0][0] for statement, counts in later.items()}
