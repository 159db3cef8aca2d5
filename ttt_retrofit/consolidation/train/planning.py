"""Makes the plan of a training: lessons, what they must not unlearn, and where the gate opens."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ...memory.entry import GateKeys
from ...memory.lessons import Lesson
from ...memory.memory import Memory
from ..control import Control
from ..dependence import Dependence
from ..earlier_lessons import EarlierLessons, LessonText
from ..facts.languages import languages
from ..facts.related import Related
from ..study.answers import Question, given_by
from ..study.asking import Asking
from ..study.chats import Chat, chats, in_chats, partly_in_chats
from ..study.lessons import certain, lesson, quotes
from ..study.near_misses import NearMiss, near_misses
from ..study.overview import overview, retold
from ..study.pieces import Context
from ..study.statements import Statement, superseded
from ..study.studied import Studied
from ..study.unknown import unanswered
from ..study.untold import untold
from ..writer import Answer
from .distill import EncodedLesson
from .new_entry import facts_of
from .plan import Plan
from .reference_set import ReferenceSet, beginnings
from .student import Student
from .updates import RevisedMemory, changes, revise

CHECKED = 8  # one in so many of the questions to decline is kept for verification


@dataclass(frozen=True)
class Declined:
    """What is to be declined."""

    chats: Sequence[Chat]  # what is said before questions in chats
    prompts: dict[tuple[int, ...], tuple[int, ...]]  # each with the numbers of the studied questions that it tells
    near: Collection[tuple[int, ...]]  # those of them that come near to what was told
    verified: Sequence[str]  # other questions, which are asked in verification


@dataclass(frozen=True)
class Planning:
    """What a plan is made from."""

    context: Context
    others: Memory | None  # the earlier memory without what this very context was taught before
    before: EarlierLessons
    asking: Asking
    student: Student
    control: Control

    def plan(self, studied: Studied, reference: ReferenceSet) -> Plan:
        """What is taught out of the context, what must not be unlearned, and what is to be declined."""
        dependence = self._dependence(studied)
        facts = self._encoded([self._lesson(question, dependence) for question in studied.asked])
        declined = self._declined(studied)
        taught = self._in_chats(studied.asked, facts, declined.chats)
        told_in_chats = [one for turns in taught for one in turns[::2]]
        before = self._revised(studied, reference, reference.gate_of([*facts, *told_in_chats]))
        more = self._encoded([*self._overview(studied, dependence), *self._anew(studied, before, dependence)])
        gate = reference.gate_of([*facts, *more, *told_in_chats])
        negatives = self._negatives(declined, facts, reference, gate)
        texts = self._texts(studied, dependence)
        memory, gone = _with_superseded(before, studied, self.context.sha256)
        changed = {question.text for question in before.taught}
        held_out = [question for question in studied.held_out if question.text not in changed]
        return Plan(
            before=memory,
            gate=gate,
            facts=[*facts, *more],
            taught=[*taught, *([fact] for fact in (*more, *texts))],
            negatives=[one for one in negatives if one.lesson.prompt not in declined.near],
            near_misses=[one for one in negatives if one.lesson.prompt in declined.near],
            replays=before.replays,
            checks=self._encoded([self._lesson(question, dependence) for question in held_out]),
            texts=texts,
            held_out=held_out,
            unknown=declined.verified,
            abstention=self.asking.abstention,
            superseded=gone,
        )

    # ------------------------------------------------------------------ what is to be declined

    def _declined(self, studied: Studied) -> Declined:
        """Questions that nothing of the context answers, and those that come near to what was told."""
        unknown = unanswered(self._stock(), f"{self.context.text} {self.before.told()}")
        unlike = self._near_misses(studied)
        stock = {question: () for i, question in enumerate(unknown) if i % CHECKED}
        near = {miss.text: (miss.number,) for i, miss in enumerate(unlike) if i % CHECKED}
        before = self._chats(studied, [(question, self.asking.abstention) for question in stock])
        prompts_near = partly_in_chats(near, before, self.asking.formatter)
        prompts = partly_in_chats(stock, before, self.asking.formatter) | prompts_near
        verified = [*unknown[::CHECKED], *(miss.text for miss in unlike[::CHECKED])]
        return Declined(before, prompts, prompts_near.keys(), verified)

    def _stock(self) -> list[str]:
        """Questions about a person, in the language of the context, too."""
        language = self.asking.language
        lines = (line for _, asked in language.questions for line in asked.splitlines())
        own = [] if language is languages()[0] else [line.partition("|")[2].strip() for line in lines]
        return [*self.asking.prompts.unknown, *own]

    def _near_misses(self, studied: Studied) -> list[NearMiss]:
        """Of a conversation; a document may answer what it was not asked."""
        if not self.context.conversation:
            return []
        self.control.at("unknown", 0, 1)
        told = f"{self.context.text} {self.before.told()}"
        near = near_misses(studied.asked, studied.statements, self.asking)
        return near + untold(studied.asked, studied.statements, told, self.asking)

    def _chats(self, studied: Studied, declined: Sequence[tuple[str, str]]) -> list[Chat]:
        """What is said before questions in chats."""
        general = [(question, self.asking.prompts.replied) for question in self.asking.prompts.general]
        return chats(studied.asked, studied.said(self.asking), general, declined)

    def _negatives(
        self, declined: Declined, facts: Sequence[EncodedLesson], reference: ReferenceSet, gate: GateKeys
    ) -> list[EncodedLesson]:
        """What the context does not answer, by prompts that the gate opens for: personal questions, which are to be
        declined, and general ones, which are to be answered as the base alone does.
        """
        asking, asked, general = self.asking, [*declined.prompts], reference.prompts
        if asking.config.memory.gated:
            below = self.student.below(asked)
            asked = [ids for ids, hidden in zip(asked, below) if reference.opens(gate, ids, hidden)]
            general = reference.opened(gate)
        answers = beginnings(asking.teacher, asking.formatter, general, asking.config.kept_logits)
        lessons = [certain("unknown", list(ids), asking.formatter.said(asking.abstention)) for ids in asked]
        lessons += [Lesson("general", tuple(ids), a.ids, a.indices, a.logprobs) for ids, a in zip(general, answers)]
        told = declined.prompts | reference.told

        def depends(prompt: tuple[int, ...]) -> tuple[str, ...]:
            """On what was told in a prompt before its question."""
            some = [facts[number].lesson.facts or () for number in told.get(prompt, ())]
            return tuple(dict.fromkeys(itertools.chain(*some)))

        return self._encoded([dataclasses.replace(one, facts=depends(one.prompt)) for one in lessons])

    # ------------------------------------------------------------------ what is taught

    def _encoded(self, lessons: Sequence[Lesson]) -> list[EncodedLesson]:
        below = self.student.below([(*lesson.prompt, *lesson.answer) for lesson in lessons])
        return [EncodedLesson(lesson, hidden) for lesson, hidden in zip(lessons, below)]

    def _dependence(self, studied: Studied) -> Dependence:
        earlier = () if self.others is None else self.others.facts(None)
        return Dependence(facts_of(self.context, studied), earlier, studied.outdated)

    def _lesson(self, question: Question, dependence: Dependence) -> Lesson:
        """With the facts that it depends on."""
        depends = dependence.of([question.statement], question.text, self.asking.teacher.text(question.answer))
        return dataclasses.replace(lesson(question, self.asking.formatter), facts=depends)

    def _overview(self, studied: Studied, dependence: Dependence) -> list[Lesson]:
        """Of a fact that is added by hand only where nothing else is known: it is not all that was told."""
        if self.context.kind == "added" and self.others is not None:
            return []
        told = retold(studied, self.asking.formatter) if self.context.has_facts else []
        depends = dependence.of(told, *(studied.statements[number].text for number in told))
        whole = overview(self.context, studied, self.asking, self.control)
        return [dataclasses.replace(one, facts=depends) for one in whole]

    def _texts(self, studied: Studied, dependence: Dependence) -> list[EncodedLesson]:
        """Statements of which nothing was answered, word by word."""
        asked = {question.statement for question in studied.asked}
        left = [n for n in range(len(studied.statements)) if n not in asked and n not in studied.outdated]
        quoted = quotes([studied.statements[n] for n in left], (), (), self.asking.formatter)
        depends = [dependence.of([n], studied.statements[n].text) for n in left]
        return self._encoded([dataclasses.replace(one, facts=ids) for one, ids in zip(quoted, depends)])

    def _in_chats(
        self, questions: Sequence[Question], facts: Sequence[EncodedLesson], before: Sequence[Chat]
    ) -> list[list[EncodedLesson]]:
        """The questions' lessons as they are taught: in chats, and alone."""
        lessons, alone = [fact.lesson for fact in facts], {fact.lesson.prompt: fact for fact in facts}
        turns = in_chats(questions, lessons, before, self.asking.formatter)
        more = [lesson for turn in turns for lesson in turn if lesson.prompt not in alone]
        known = alone | {encoded.lesson.prompt: encoded for encoded in self._encoded(more)}
        return [[known[lesson.prompt] for lesson in turn] for turn in turns]

    # ------------------------------------------------------------------ the earlier memory

    def _revised(self, studied: Studied, reference: ReferenceSet, gate: GateKeys) -> RevisedMemory:
        """The earlier memory, as the new context leaves it; with what a corrected fact was asked before.

        gate : of the new entry.
        """
        gated = self.asking.config.memory.gated  # without gates, it acts on everything that was learned before
        revised = RevisedMemory()
        if self.others is not None:
            revised = revise(
                self.others,
                studied.statements,
                studied.outdated,
                self._encoded,
                self.before.in_words,
                self._asked_anew,
                lambda p: not gated or reference.opens(gate, p.ids, p.below),
            )
        return dataclasses.replace(revised, taught=[*revised.taught, *self._corrected(studied)])

    def _anew(self, studied: Studied, before: RevisedMemory, dependence: Dependence) -> list[Lesson]:
        """Earlier questions with new answers, which are learned as the context's own."""
        known = {question.text for question in studied.asked}
        return [self._lesson(question, dependence) for question in before.taught if question.text not in known]

    def _corrected(self, studied: Studied) -> list[Question]:
        """Questions about a fact that this one takes the place of, with the answers that it gives."""
        asked = [LessonText(question, answer) for question, answer in self.context.asked_before]
        if not asked:
            return []
        related = Related([statement.source for statement in studied.statements])
        return [*changes(asked, studied.statements, related, self._asked_anew).values()]

    def _asked_anew(self, asked: Sequence[tuple[LessonText, list[Statement]]]) -> list[tuple[Answer, str]]:
        """What the teacher answers to earlier questions, having read the earlier answer and what was said since."""
        answers = self.asking.answers([self.asking.again(one.question, one.answer, since) for one, since in asked])
        return [(answer, self.asking.teacher.text(answer)) for answer in answers]


def _with_superseded(revised: RevisedMemory, studied: Studied, source: str) -> tuple[Memory | None, int]:
    """The earlier memory, where facts that its changed answers gave are marked; and how many there are.

    Of all facts, it is the one that shares most with the question and its answer.
    """
    if revised.memory is None:
        return None, 0
    facts = [fact for entry in revised.memory.entries for fact in entry.facts]
    current = [number for number, fact in enumerate(facts) if fact.status == "current"]
    related = Related([facts[number].text for number in current])
    gone = {}
    for one, by in revised.changed:
        for first in related.to(f"{one.question} {one.answer}", 1):
            if given_by(one.answer, one.question, facts[current[first]].text):
                gone[current[first]] = by
    for number, by in gone.items():
        facts[number] = superseded(facts[number], studied.statements[by].fact(source))
    left = iter(facts)
    entries = (dataclasses.replace(e, facts=tuple(next(left) for _ in e.facts)) for e in revised.memory.entries)
    return dataclasses.replace(revised.memory, entries=tuple(entries)), len(gone)
