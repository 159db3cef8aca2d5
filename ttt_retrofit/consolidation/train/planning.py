"""Makes the plan of a training: lessons, what they must not unlearn, and where the gate opens."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...memory.lessons import Lesson
from ...memory.memory import Memory
from ...util.prompt_formatter import PromptFormatter
from ..config import ConsolidationConfig
from ..control import Control
from ..dependence import Dependence
from ..earlier_lessons import EarlierLessons, LessonText
from ..facts.languages import languages
from ..facts.related import Related
from ..prompts import Prompts
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
from ..writer import Answer, Writer
from .distill import EncodedLesson
from .new_entry import facts_of
from .plan import Plan
from .reference_set import ReferenceSet, beginnings
from .student import Student
from .updates import RevisedMemory, changes, revise

CHECKED = 8  # one in so many of the questions to decline is kept for verification


@dataclass(frozen=True)
class Planning:
    """What a plan is made from."""

    context: Context
    others: Memory | None  # the earlier memory without what this very context was taught before
    before: EarlierLessons
    asking: Asking
    student: Student
    control: Control

    @property
    def teacher(self) -> Writer:
        return self.asking.teacher

    @property
    def formatter(self) -> PromptFormatter:
        return self.asking.formatter

    @property
    def prompts(self) -> Prompts:
        return self.asking.prompts

    @property
    def config(self) -> ConsolidationConfig:
        return self.asking.config

    def plan(self, studied: Studied, reference: ReferenceSet) -> Plan:
        """What is taught out of the context, what must not be unlearned, and what is to be declined."""
        asked, dependence = studied.asked, self._dependence(studied)
        facts = self._encoded([self._lesson(question, dependence) for question in asked])
        abstention = self.asking.abstention
        unknown = unanswered(self._stock(), f"{self.context.text} {self.before.told()}")
        unlike = self._near_misses(studied)
        untold = {question: () for i, question in enumerate(unknown) if i % CHECKED}
        near = {miss.text: (miss.number,) for i, miss in enumerate(unlike) if i % CHECKED}
        before_asked = self._chats(studied, [(question, abstention) for question in untold])
        declined_near = partly_in_chats(near, before_asked, self.formatter)
        studied_unknown = partly_in_chats(untold, before_asked, self.formatter) | declined_near
        taught_facts = self._in_chats(asked, facts, before_asked)
        told_in_chats = [one for turns in taught_facts for one in turns[::2]]
        gate = reference.gate_of([*facts, *told_in_chats])
        gated = self.config.memory.gated  # without gates, the new entry acts on everything that was learned before
        before = self._revised(studied, lambda p: not gated or reference.opens(gate, p.ids, p.below))
        before = dataclasses.replace(before, taught=[*before.taught, *self._corrected(studied)])
        whole = self._overview(studied, dependence)
        # Earlier questions with new answers are learned as the context's own.
        known = {question.text for question in asked}
        anew = [self._lesson(question, dependence) for question in before.taught if question.text not in known]
        facts += self._encoded([*whole, *anew])
        gate = reference.gate_of([*facts, *told_in_chats])
        taught = {question.text for question in before.taught}
        held_out = [question for question in studied.held_out if question.text not in taught]
        declined, general = [*studied_unknown], reference.prompts
        if gated:
            below = self.student.below(declined)
            declined = [ids for ids, hidden in zip(declined, below) if reference.opens(gate, ids, hidden)]
            general = reference.opened(gate)
        told = studied_unknown | reference.told
        memory, gone = _with_superseded(before, studied, self.context.sha256)
        texts = self._texts(studied, dependence)

        def depends(ids: Sequence[int]) -> tuple[str, ...]:
            """On what was told in a prompt before its question."""
            some = [facts[number].lesson.facts or () for number in told.get(tuple(ids), ())]
            return tuple(dict.fromkeys(itertools.chain(*some)))

        negatives = self._negatives(declined, general, abstention, depends)
        return Plan(
            before=memory,
            gate=gate,
            facts=facts,
            taught=[*taught_facts, *([fact] for fact in (*facts[len(asked) :], *texts))],
            negatives=[one for one in negatives if one.lesson.prompt not in declined_near],
            near_misses=[one for one in negatives if one.lesson.prompt in declined_near],
            replays=before.replays,
            checks=self._encoded([self._lesson(question, dependence) for question in held_out]),
            texts=texts,
            held_out=held_out,
            unknown=[*unknown[::CHECKED], *(miss.text for miss in unlike[::CHECKED])],
            abstention=abstention,
            superseded=gone,
        )

    def _stock(self) -> list[str]:
        """Questions about a person, in the language of the context, too."""
        language = self.asking.language
        lines = (line for _, asked in language.questions for line in asked.splitlines())
        own = [] if language is languages()[0] else [line.partition("|")[2].strip() for line in lines]
        return [*self.prompts.unknown, *own]

    def _near_misses(self, studied: Studied) -> list[NearMiss]:
        """Of a conversation; a document may answer what it was not asked."""
        if not self.context.conversation:
            return []
        self.control.at("unknown", 0, 1)
        told = f"{self.context.text} {self.before.told()}"
        near = near_misses(studied.asked, studied.statements, self.asking)
        return near + untold(studied.asked, studied.statements, told, self.asking)

    def _encoded(self, lessons: Sequence[Lesson]) -> list[EncodedLesson]:
        below = self.student.below([(*lesson.prompt, *lesson.answer) for lesson in lessons])
        return [EncodedLesson(lesson, hidden) for lesson, hidden in zip(lessons, below)]

    def _dependence(self, studied: Studied) -> Dependence:
        earlier = () if self.others is None else self.others.facts(None)
        return Dependence(facts_of(self.context, studied), earlier, studied.outdated)

    def _lesson(self, question: Question, dependence: Dependence) -> Lesson:
        """With the facts that it depends on."""
        depends = dependence.of([question.statement], question.text, self.teacher.text(question.answer))
        return dataclasses.replace(lesson(question, self.formatter), facts=depends)

    def _corrected(self, studied: Studied) -> list[Question]:
        """Questions about a fact that this one takes the place of, with the answers that it gives."""
        asked = [LessonText(question, answer) for question, answer in self.context.asked_before]
        if not asked:
            return []
        related = Related([statement.source for statement in studied.statements])
        return [*changes(asked, studied.statements, related, self._asked_anew).values()]

    def _overview(self, studied: Studied, dependence: Dependence) -> list[Lesson]:
        """Of a fact that is added by hand only where nothing else is known: it is not all that was told."""
        if self.context.kind == "added" and self.others is not None:
            return []
        told = retold(studied, self.formatter) if self.context.has_facts else []
        depends = dependence.of(told, *(studied.statements[number].text for number in told))
        whole = overview(self.context, studied, self.asking, self.control)
        return [dataclasses.replace(one, facts=depends) for one in whole]

    def _texts(self, studied: Studied, dependence: Dependence) -> list[EncodedLesson]:
        """Statements of which nothing was answered, word by word."""
        asked = {question.statement for question in studied.asked}
        left = [n for n in range(len(studied.statements)) if n not in asked and n not in studied.outdated]
        quoted = quotes([studied.statements[n] for n in left], (), (), self.formatter)
        depends = [dependence.of([n], studied.statements[n].text) for n in left]
        return self._encoded([dataclasses.replace(one, facts=ids) for one, ids in zip(quoted, depends)])

    def _chats(self, studied: Studied, declined: Sequence[tuple[str, str]]) -> list[Chat]:
        """What is said before questions in chats."""
        general = [(question, self.prompts.replied) for question in self.prompts.general]
        return chats(studied.asked, studied.said(self.asking), general, declined)

    def _in_chats(
        self, questions: Sequence[Question], facts: Sequence[EncodedLesson], before: Sequence[Chat]
    ) -> list[list[EncodedLesson]]:
        """The questions' lessons as they are taught: in chats, and alone."""
        lessons, alone = [fact.lesson for fact in facts], {fact.lesson.prompt: fact for fact in facts}
        turns = in_chats(questions, lessons, before, self.formatter)
        more = [lesson for turn in turns for lesson in turn if lesson.prompt not in alone]
        known = alone | {encoded.lesson.prompt: encoded for encoded in self._encoded(more)}
        return [[known[lesson.prompt] for lesson in turn] for turn in turns]

    def _negatives(
        self,
        declined: Sequence[Sequence[int]],
        general: Sequence[list[int]],
        abstention: str,
        depends: Callable[[Sequence[int]], tuple[str, ...]],
    ) -> list[EncodedLesson]:
        """What the context does not answer, by prompts that the gate opens for: personal questions, which are to be
        declined, and general ones, which are to be answered as the base alone does.
        """
        answers = beginnings(self.teacher, self.formatter, general, self.config.kept_logits)
        lessons = [certain("unknown", list(ids), self.formatter.said(abstention)) for ids in declined]
        lessons += [Lesson("general", tuple(ids), a.ids, a.indices, a.logprobs) for ids, a in zip(general, answers)]
        return self._encoded([dataclasses.replace(one, facts=depends(one.prompt)) for one in lessons])

    def _revised(self, studied: Studied, opens: Callable[[EncodedLesson], bool]) -> RevisedMemory:
        """The earlier memory, as the new context leaves it."""
        if self.others is None:
            return RevisedMemory()
        return revise(
            self.others,
            studied.statements,
            studied.outdated,
            self._encoded,
            self.before.in_words,
            self._asked_anew,
            opens,
        )

    def _asked_anew(self, asked: Sequence[tuple[LessonText, list[Statement]]]) -> list[tuple[Answer, str]]:
        """What the teacher answers to earlier questions, having read the earlier answer and what was said since."""
        answers = self.asking.answers([self.asking.again(one.question, one.answer, since) for one, since in asked])
        return [(answer, self.teacher.text(answer)) for answer in answers]


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
