"""The study of a context: its statements, what is asked about them, and what the teacher answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from ..control import Control
from ..facts.checks import WORD, folded, verbatim
from ..facts.languages import Language, nearest, shown
from ..facts.listing import Listed, facts_of
from ..facts.related import Related, said_again
from ..facts.verdicts import Judge
from ..facts.writers import FactWriter
from ..writer import Answer
from .answers import Answered, Answering, Question
from .asking import Asking
from .parts import parts_of
from .pieces import Context
from .questions import ALIKE, QuestionDraft, ask, ask_freely, ask_whether_still, cut, resemblance
from .ranking import answered_by_others, best
from .retelling import told_back
from .review import EVERYTHING, Review
from .several import told_together
from .statements import Statement, of_conversation

FEW = 3  # questions about a statement that are too few
WORDINGS = 2  # that ask for the same, of which one can be spared


@dataclass(frozen=True)
class Studied:
    """What is known about a context before anything is learned."""

    statements: tuple[Statement, ...]
    questions: tuple[Question, ...] = ()  # those held out are asked in verification
    outdated: dict[int, int] = field(default_factory=dict)  # statements, each with the later one that changes it
    dropped: int = 0  # sentences of the writer that failed a check
    refused: int = 0  # facts that the policy or a person did not let be kept

    @property
    def asked(self) -> list[Question]:
        """What is taught."""
        return [question for question in self.questions if not question.held_out]

    @property
    def held_out(self) -> list[Question]:
        return [question for question in self.questions if question.held_out]

    def said(self, asking: Asking) -> list[tuple[str, str]]:
        """What is taught, each question with its answer in words."""
        return [(question.text, asking.text(question.answer)) for question in self.asked]

    def covers(self, number: int) -> bool:
        """Whether questions ask for all the names, numbers and codes that only this statement has."""
        asked = {word for question in self.questions for word in question.value}
        return own_words(number, self.statements) <= asked

    @property
    def holding(self) -> list[Statement]:
        """The statements that hold at the end of the context."""
        return [statement for number, statement in enumerate(self.statements) if number not in self.outdated]


@dataclass(frozen=True)
class Studying:
    """Who studies, and how."""

    context: Context
    writer: FactWriter
    asking: Asking
    control: Control
    review: Review = EVERYTHING

    def study(self, own_questions: Sequence[str]) -> Studied:
        """Own questions take the place of those that the writer writes."""
        statements, dropped, refused = self._statements(listed=not own_questions)
        outdated = self._outdated(statements) if self.context.conversation and not own_questions else {}
        retold = self._retold(statements) if not own_questions else {}
        ends = sorted({*outdated.values()} - {*retold}) if not own_questions else []
        told = told_back([statements[n] for n in ends], self.asking)
        endings = {ends[place]: answer for place, answer in told.items()}
        answering = Answering(
            statements, outdated, self.context.pieces, self.asking, self.judge, self.control, retold, endings
        )
        if own_questions:
            own = answering.answer([self._own(text, statements) for text in own_questions])
            return Studied(statements, tuple(own.questions), outdated, dropped, refused)
        answered = answering.answer(self._written(statements, outdated, retold))
        outdated = outdated | answered.overruled
        questions = self._clear(answered, statements, outdated, retold)
        left = without_one_held_out(questions, statements, outdated)
        if left:
            some, known = [statements[number] for number in left], {folded(question.text) for question in questions}
            more = [replace(d, statement=left[d.statement]) for d in ask_freely(some, self.writer, self.languages, 1)]
            added = answering.answer([draft for draft in more if folded(draft.text) not in known])
            questions += self._clear(added, statements, outdated, retold)
        return Studied(statements, tuple(held_out(questions, statements)), outdated, dropped, refused)

    def _clear(
        self,
        answered: Answered,
        statements: Sequence[Statement],
        outdated: Mapping[int, int],
        retold: Mapping[int, Answer],
    ) -> list[Question]:
        """The questions; those about a conversation that several statements answer, with all of them."""
        if not self.context.conversation:
            return answered.questions
        others = answered_by_others(answered.questions, statements, outdated, self.asking)
        for number, question in enumerate(answered.questions):
            if also := answered.also.get(folded(question.text)):
                others[number] = sorted({*others.get(number, ()), *also})
        return [*told_together(answered.questions, others, statements, self.asking, retold)]

    def _written(
        self, statements: Sequence[Statement], outdated: Mapping[int, int], retold: Mapping[int, Answer]
    ) -> list[QuestionDraft]:
        """The best of many questions; about what has few, cut statements; and whether what was ended is still so."""
        many, language = self.asking.config.wordings, self.languages[-1]
        drafts = ask(statements, self.writer, self.languages, many, self._at("questions"), sampled=bool(retold))
        said = self.asking.formatter.said
        replies = {n: retold[n].ids if n in retold else said(s.text) for n, s in enumerate(statements)}
        written = best(drafts, replies, self.asking)
        few = Counter(draft.statement for draft in written)
        written += cut([n for n in retold if few[n] < FEW], statements, language)
        return written + ask_whether_still(sorted({*outdated.values()}), statements, self.writer, self.languages)

    def _retold(self, statements: Sequence[Statement]) -> dict[int, Answer]:
        """What answers all questions about a statement of a conversation, where nobody can judge other answers."""
        if not self.context.conversation or self.judge.trusted("supports"):
            return {}
        return told_back(statements, self.asking)

    def _outdated(self, statements: Sequence[Statement]) -> dict[int, int]:
        """The statements that no longer hold at the end, each with the last one that says so."""
        told = [(s.message, s.said_by, s.understood) for s in statements]
        if self.judge.trusted("changes"):
            return self.judge.changed(told, self._at("changes"))
        return said_again(told)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.writer)

    @cached_property
    def languages(self) -> Sequence[Language]:
        return shown(self.context.words)

    def _own(self, text: str, statements: Sequence[Statement]) -> QuestionDraft:
        near = Related([statement.source for statement in statements]).to(text, 1)
        return QuestionDraft(text, near[0] if near else -1, by_user=True)

    def _statements(self, listed: bool) -> tuple[tuple[Statement, ...], int, int]:
        """Facts that the writer lists, or a document's sentences; of too many, those with names and numbers. How many
        failed a check, and how many were refused.
        """
        statements, dropped, refused = self.context.statements, 0, 0
        if self.context.conversation:
            turns, found = self.context.turns, Listed((), ())
            if listed and self.judge.trusted("supports"):  # who misreads a fact lists none
                found = facts_of(turns, self.review.instructed(self.writer), self._at("facts"), self.judge)
            statements, dropped = of_conversation(self.context.turns, found), len(found.dropped)
        if len(statements) > self.asking.config.most_statements:
            telling = sorted(range(len(statements)), key=lambda n: not verbatim(statements[n].text))
            statements = tuple(statements[n] for n in sorted(telling[: self.asking.config.most_statements]))
        if self.review != EVERYTHING:
            statements, refused = self.review.kept(statements, self.context.turns, self.context.sha256, self.writer)
        return statements, dropped, refused

    def _at(self, stage: str) -> Callable[[int, int], None]:
        return partial(self.control.at, stage)


def held_out(questions: Sequence[Question], statements: Sequence[Statement]) -> Iterator[Question]:
    """The questions, of which one of each statement is held out: worded by another prompt and as none that is studied;
    else one of several that ask for the same. It asks for what only this statement says, where one does. What else may
    be held out is studied, and so is a statement's only one.
    """
    for number, some in _by_statement(questions).items():
        own = own_words(number, statements) if number >= 0 else set()
        studied = [question for question in some if not question.held_out]
        others = [question for question in some if question.held_out and _otherwise(question, studied)]
        same = Counter(question.value for question in studied)
        spare = [question for question in reversed(studied) if same[question.value] >= WORDINGS]
        others.sort(key=lambda q: not q.value & own)
        may = (*others, *spare) if len(some) > 1 else ()
        chosen = next((q for q in may if q.value & own), next(iter(may), None))
        for question in some:
            yield replace(question, held_out=question is chosen)


def own_words(number: int, statements: Sequence[Statement]) -> set[str]:
    """The words of names, numbers and codes that one statement has and no other one."""
    others = {word for n, other in enumerate(statements) if n != number for word in WORD.findall(folded(other.source))}
    parts = parts_of(statements[number].text) if nearest(statements[number].source).names else []
    return {word for part in parts for word in WORD.findall(folded(part))} - others


def without_one_held_out(
    questions: Sequence[Question], statements: Sequence[Statement], outdated: Collection[int]
) -> list[int]:
    """The statements that hold and of which no question can be held out."""
    found = _by_statement([question for question in held_out(questions, statements) if question.held_out])
    return [number for number in range(len(statements)) if number not in outdated and number not in found]


def _by_statement(questions: Sequence[Question]) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for question in questions:
        found.setdefault(question.statement, []).append(question)
    return found


def _otherwise(question: Question, others: Sequence[Question]) -> bool:
    """Whether it is worded as none of the others."""
    return all(resemblance(question.text, other.text) <= ALIKE for other in others)
