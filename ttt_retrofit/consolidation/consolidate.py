"""One consolidation from beginning to end: study, prefix, gate, training, verification, decision.

It changes nothing but its own private copy of the model, and returns a candidate with its report.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError
from ..memory.batch import MemoryBatch
from ..memory.collate import collate
from ..memory.gates import Background
from ..memory.lessons import Lesson
from ..memory.memory import Memory
from ..memory.projections import Placement, find_placement
from ..memory.report import Report
from ..util.fingerprint import fingerprint
from ..util.prompt_formatter import PromptFormatter
from ..util.texts import common_beginning
from . import study, verify
from .aliases import Pair, pairs
from .asking import QuestionDraft, ask
from .cached_writer import CachedTexts, CachedWriter
from .chats import pair_in_chats, partly_in_chats
from .config import ConsolidationConfig
from .control import Control
from .distill import EncodedLesson, Leaves, TrainingState, begin_training, fresh_leaves, train, with_new_entry
from .earlier_lessons import EarlierLessons
from .facts.writers import FactWriter
from .model_copies import plain_copy, private_copy
from .new_entry import new_entry
from .note_selection import within_budget
from .overview import overview
from .pieces import Context
from .plan import Plan
from .prompts import Prompts
from .reference_set import ReferenceSet, beginnings, build_reference_set
from .student import Student
from .study import Question
from .supersede import NewAnswers, RevisedMemory, latest, revise
from .told import ask_by_writer, by_facts
from .words import content
from .work_directory import FORMAT, WorkDirectory
from .writer import Writer

KEPT = 5  # one in so many of the general requests is kept for verification


@dataclass
class Consolidation:
    """What is to be done, and what has been found so far."""

    model: Any  # a converted model: forwards, generates, carries memories, makes a `new_cache`
    tokenizer: PreTrainedTokenizerBase
    context: Context
    config: ConsolidationConfig
    control: Control
    base: str  # fingerprint
    prompts: Prompts
    own_questions: Sequence[str] = ()
    writer: tuple[Any, PreTrainedTokenizerBase] | FactWriter | None = None
    date: datetime.date | None = None  # of messages that carry none
    earlier: Memory | None = None
    tokens: int = 0  # processed by others than the teacher and the student
    dropped: int = 0  # sentences of a writer of facts that failed a check
    kept: Sequence[str] = field(init=False)  # general requests that are asked in verification, and nowhere else
    formatter: PromptFormatter = field(init=False)
    others: Memory | None = field(init=False)  # the earlier memory without what this very context was taught before
    before: EarlierLessons = field(init=False)

    def __post_init__(self) -> None:
        general = self.prompts.general
        self.kept = general[KEPT - 1 :: KEPT]
        self.prompts = dataclasses.replace(self.prompts, general=tuple(q for n, q in enumerate(general, 1) if n % KEPT))
        self.formatter = PromptFormatter(self.tokenizer, self.prompts.plain)
        earlier, own = self.earlier, [self.context.sha256]
        entries = () if earlier is None else tuple(e for e in earlier.entries if [s.sha256 for s in e.sources] != own)
        self.others = dataclasses.replace(earlier, entries=entries) if earlier is not None and entries else None
        self.before = EarlierLessons(self.formatter, entries)

    def key(self) -> str:
        """Names this very consolidation, so that one that was cut off is recognised."""
        parts = [
            f"format {FORMAT}",
            self.context.sha256,
            self.base,
            json.dumps(dataclasses.asdict(self.config), sort_keys=True, default=str),
            json.dumps(dataclasses.asdict(self.prompts), sort_keys=True),
            str(self.tokenizer.chat_template),
            self._writer_name,
            str(self.date),
            json.dumps(list(self.own_questions)),
            json.dumps([] if self.earlier is None else [[e.name, e.created] for e in self.earlier.entries]),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    @property
    def _writer_name(self) -> str:
        if self.writer is None:
            return ""
        if not isinstance(self.writer, tuple):
            return self.writer.name
        return f"{fingerprint(self.writer[0])} {self.writer[1].chat_template}"

    def run(self, work_dir: Path) -> Memory:
        """The candidate: earlier entries and the new one, with `report.accepted` saying whether it may be used.

        Raises
        ------
        Cancelled
            When it was cancelled; what was done so far stays in `work_dir`.
        InputError
            When another process works on the same.
        """
        models = [self.model, self.writer[0]] if isinstance(self.writer, tuple) else [self.model]
        vocabulary = max(model.config.get_text_config(decoder=True).vocab_size for model in models)
        work = WorkDirectory.open(work_dir, self.key(), vocabulary)
        finished = False
        try:
            memory = self._run(work)
            finished = True
            return memory
        finally:
            self.control.end()
            work.close(finished)

    # ------------------------------------------------------------------ stages

    def _run(self, work: WorkDirectory) -> Memory:
        plain = plain_copy(self.model)
        placement = find_placement(plain, self.config.memory)
        self._check_earlier(placement)
        teacher = CachedWriter(work, "teacher", plain, self.tokenizer, self.control.check)
        if isinstance(self.writer, FactWriter) and not self.own_questions:
            facts = CachedTexts(work, self.writer, self.control.check)
            self.context, self.dropped = by_facts(self.context, facts, self.control)
        studied = work.load_study()
        if studied is None:
            studied = self._study(teacher, work)
            work.save_study(*studied)
        questions, outdated = studied
        self.context = self.context.without(outdated)
        asked = [question for question in questions if not question.held_out]
        if not asked:
            return self._rejected(
                "no question about the context could be written and answered from it.", teacher.tokens
            )

        student = Student(plain_copy(self.model), placement)
        reference = self._reference_set(student, teacher, asked)
        plan = self._plan(student, teacher, questions, reference)
        earlier = None if plan.before is None else collate([plan.before], plain.device, torch.float32)

        def memories(leaves: Leaves) -> MemoryBatch:
            gated, device = self.config.memory.gated, plain.device
            return with_new_entry(
                earlier, plan.gate, reference.background, gated, leaves, placement.layer, device, reference.opener
            )

        state = begin_training(fresh_leaves(placement, self.config.memory, self.config.seed, plain.device))
        taught = itertools.chain.from_iterable(plan.taught)
        prompts = [p.lesson.prompt for p in [*taught, *plan.negatives, *plan.replays, *plan.checks]]
        student.share(common_beginning(prompts), memories(state.leaves))
        work.load_training(state)
        try:
            stopped = train(
                student, plan.taught, plan.negatives, plan.replays, plan.checks, memories, state, self.config,
                self.control, work.save_training,
            )  # fmt: skip
        except FloatingPointError as error:
            return self._rejected(f"training diverged ({error}). Try a smaller lr.", teacher.tokens + student.tokens)
        candidate = self._candidate(plan, state, reference, placement)
        verified = self._verified(student, teacher, candidate, asked, plan, reference)
        self.control.at("done", 1, 1)
        assert verified.report is not None
        report = dataclasses.replace(
            verified.report,
            steps=state.step,
            lessons=len(plan.facts),
            stopped=stopped,
            tokens=self.tokens + student.tokens + teacher.tokens,
            seconds=dict(self.control.seconds),
        )
        return dataclasses.replace(verified, report=report)

    def _reference_set(self, student: Student, teacher: Writer, asked: Sequence[Question]) -> ReferenceSet:
        self.control.at("general", 0, len(self.prompts.general))
        said = _said(teacher, asked)
        return build_reference_set(student, teacher, self.formatter, self.prompts, said, self.others)

    def _plan(self, student: Student, teacher: Writer, questions: Sequence[Question], reference: ReferenceSet) -> Plan:
        """What is taught out of the context, what must not be unlearned, and what is to be declined."""
        asked = [question for question in questions if not question.held_out]
        facts = self._encoded(student, [study.lesson(question, self.formatter) for question in asked])
        gate = reference.gate_of(facts)
        before = self._revised(student, teacher, questions, lambda p: reference.opens(gate, p.ids, p.below))
        whole = overview(self.context, questions, teacher, self.formatter, self.prompts, self.control)
        # Earlier questions with new answers are learned as the context's own.
        anew = [study.lesson(question, self.formatter) for question in before.taught]
        left, named = () if before.memory is None else before.memory.entries, _named(self.context, self.prompts)
        again = self.before.again(left, named, {question.text for question in questions})
        anew += [lesson for _, lesson in again]
        facts += self._encoded(student, [*whole, *anew])
        gate = reference.gate_of(facts)
        taught = {question.text for question in before.taught}
        held_out = [question for question in questions if question.held_out and question.text not in taught]
        unknown = study.unanswered(self.prompts, f"{self.context.text} {self.before.told()}")
        # Every eighth is kept for verification.
        said = _said(teacher, asked)
        studied_unknown = partly_in_chats([q for i, q in enumerate(unknown) if i % 8], said, self.formatter)

        declined, general = studied_unknown, reference.prompts
        if self.config.memory.gated:
            below = student.below(studied_unknown)
            declined = [ids for ids, hidden in zip(studied_unknown, below) if reference.opens(gate, ids, hidden)]
            general = reference.opened(gate)
        return Plan(
            before=before.memory,
            learned_from=self.before.learned_from(self.before.named(self.prompts.named, named), again, questions),
            gate=gate,
            facts=facts,
            taught=[
                *self._in_chats(student, asked, facts[: len(asked)], said),
                *([fact] for fact in (*facts[len(asked) :], *self._texts(student, asked))),
            ],
            negatives=self._negatives(student, teacher, declined, general),
            replays=before.replays,
            checks=self._encoded(student, [study.lesson(question, self.formatter) for question in held_out]),
            held_out=held_out,
            unknown=unknown[::8],
        )

    def _check_earlier(self, placement: Placement) -> None:
        """Gates of one memory depend on one layer, and all its entries have gates or none has."""
        if self.others is None:
            return
        if self.others.layer != placement.layer:
            raise ConfigError(
                f"The loaded memory has its gates at {self.others.layer}, the new one would have them at "
                f"{placement.layer}. Use the same MemoryConfig, or reset_memory() first."
            )
        if self.others.config.gated != self.config.memory.gated:
            raise ConfigError(
                f"The loaded memory has gated={self.others.config.gated}, the new one would have "
                f"gated={self.config.memory.gated}; one bank has gates or has none. Use the same MemoryConfig, or "
                "reset_memory() first."
            )

    def _study(self, teacher: Writer, work: WorkDirectory) -> tuple[list[Question], frozenset[int]]:
        """The questions with their answers, and the statements that no longer hold at the end of the context."""
        own = [QuestionDraft(text, self._about(text), by_user=True) for text in self.own_questions]
        asked = own or self._asked(teacher, work)
        questions = study.answer(asked, self.context, teacher, self.formatter, self.prompts, self.config, self.control)
        outdated: frozenset[int] = frozenset()
        if self.context.conversation:  # a document tells one thing after another, a chat corrects what it told
            said = partial(_in_words, teacher)
            questions, outdated = latest(questions, self.context.statements, said, partial(self._answered, teacher))
        named = _named(self.context.without(outdated), self.prompts)
        earlier = [pair for known in self.before.named(self.prompts.named, named).values() for pair in known]
        return study.hold_out(study.otherwise_named(questions, [*dict.fromkeys(earlier), *named])), outdated

    def _asked(self, teacher: Writer, work: WorkDirectory) -> list[QuestionDraft]:
        """The questions about the context that the model, another model, or a writer of facts writes."""
        if self.writer is None:
            return ask(self.context, teacher, self.prompts, self.config, self.control)
        if isinstance(self.writer, tuple):
            writer = CachedWriter(work, "writer", *self.writer, self.control.check)
            asked = ask(self.context, writer, self.prompts, self.config, self.control)
            self.tokens += writer.tokens
            return asked
        return ask_by_writer(
            self.context, CachedTexts(work, self.writer, self.control.check), self.config, self.control
        )

    def _answered(self, teacher: Writer, asked: Sequence[QuestionDraft]) -> NewAnswers:
        """What the teacher answers to questions that were asked before, out of what this context says."""
        given = study.answer(asked, self.context, teacher, self.formatter, self.prompts, self.config, self.control)
        return {question.text: (question, _in_words(teacher, question)) for question in given if question.value}

    def _about(self, question: str) -> int:
        """The statement that shares most words with a question of the user's own."""
        shared = [len(content(question) & content(s.text)) for s in self.context.statements]
        return shared.index(max(shared)) if shared and max(shared) > 0 else -1

    def _encoded(self, student: Student, lessons: Sequence[Lesson]) -> list[EncodedLesson]:
        below = student.below([(*lesson.prompt, *lesson.answer) for lesson in lessons])
        return [EncodedLesson(lesson, hidden) for lesson, hidden in zip(lessons, below)]

    def _texts(self, student: Student, questions: Sequence[Question]) -> list[EncodedLesson]:
        """Statements of which something was not answered, word by word."""
        return self._encoded(student, study.quotes(self.context, questions, self.formatter, self.prompts, self.config))

    def _in_chats(
        self,
        student: Student,
        questions: Sequence[Question],
        facts: Sequence[EncodedLesson],
        said: Sequence[tuple[str, str]],
    ) -> list[list[EncodedLesson]]:
        """The questions' lessons as they are taught: after another one in a chat, and alone."""
        general = [(question, self.prompts.replied) for question in self.prompts.general]
        lessons, alone = [fact.lesson for fact in facts], {fact.lesson.prompt: fact for fact in facts}
        turns = pair_in_chats(questions, lessons, said, general, self.formatter)
        chats = [lesson for turn in turns for lesson in turn if lesson.prompt not in alone]
        known = alone | {encoded.lesson.prompt: encoded for encoded in self._encoded(student, chats)}
        return [[known[lesson.prompt] for lesson in turn] for turn in turns]

    def _negatives(
        self, student: Student, teacher: Writer, declined: list[list[int]], general: list[list[int]]
    ) -> list[EncodedLesson]:
        """What the context does not answer, by prompts that the gate opens for: personal questions, which are to be
        declined, and general ones, which are to be answered as the base alone does.
        """
        answers = beginnings(teacher, self.formatter, general, self.config.kept_logits)
        abstention = self.formatter.said(self.prompts.abstention)
        lessons = [study.certain("unknown", ids, abstention) for ids in declined]
        lessons += [Lesson("general", tuple(ids), a.ids, a.indices, a.logprobs) for ids, a in zip(general, answers)]
        return self._encoded(student, lessons)

    def _revised(
        self, student: Student, teacher: Writer, questions: Sequence[Question], opens: Callable[[EncodedLesson], bool]
    ) -> RevisedMemory:
        """The earlier memory, as the new context leaves it."""
        if self.others is None:
            return RevisedMemory()
        return revise(
            self.others,
            questions,
            self.context.statements,
            partial(self._encoded, student),
            self.before.in_words,
            partial(self._answered, teacher),
            opens,
        )

    def _candidate(self, plan: Plan, state: TrainingState, reference: ReferenceSet, placement: Placement) -> Memory:
        """The earlier entries as they are left, and the new one."""
        before = () if plan.before is None else plan.before.entries
        entry = new_entry(self.context, self.config, self.tokenizer, plan, state.leaves, [e.name for e in before])
        entries = (*before, entry)
        return Memory(
            base=self.base,
            base_name=self.model.name_or_path,
            config=self.config.memory,
            layer=placement.layer,
            background=reference.background.to(torch.device("cpu")),
            entries=within_budget(entries, self.config.notepad) if self.config.notepad else entries,
            created=entry.created,
            opener=reference.opener,
        )

    def _verified(
        self,
        student: Student,
        teacher: Writer,
        candidate: Memory,
        asked: Sequence[Question],
        plan: Plan,
        reference: ReferenceSet,
    ) -> Memory:
        """The candidate with its report, and its facts marked by whether they are known."""
        self.control.at("verify", 0, verify.PARTS)
        converted = private_copy(self.model)
        remembering = Writer(
            converted, self.tokenizer, self.control.check, converted.new_cache, memories=candidate, learn_from="none"
        )
        memories = collate([candidate], student.model.device, student.model.dtype)
        assert memories is not None
        said = _said(teacher, asked)
        verification = verify.Verification(
            teacher,
            remembering,
            self.formatter,
            verify.chosen(plan.held_out, [question for question in asked if question.value]),
            plan.unknown,
            partial(verify.in_chat, teacher, remembering, self.formatter, said, self.kept, self.prompts.abstention),
            partial(verify.drift, student, reference.texts, reference.below_texts, memories),
        )
        report, known = verification.report(self.config, self.control)
        self.tokens += remembering.tokens
        *earlier, entry = candidate.entries
        facts = tuple(
            dataclasses.replace(fact, learned=known.get(number)) if fact.status == "current" else fact
            for number, fact in enumerate(entry.facts)
        )
        report = dataclasses.replace(
            report,
            facts=sum(fact.learned is not None for fact in facts),
            unlearned=tuple(fact.id for fact in facts if fact.learned is False),
            dropped=self.dropped,
            superseded=sum(fact.status != "current" for fact in facts),
        )
        entries = (*earlier, dataclasses.replace(entry, facts=facts))
        return dataclasses.replace(candidate, entries=entries, report=report)

    def _rejected(self, reason: str, tokens: int) -> Memory:
        """The earlier memory as it was, with a report that says why nothing was added."""
        seconds = dict(self.control.seconds)
        report = Report(False, reason, None, None, 0, None, None, 0.0, 0.0, tokens=tokens, seconds=seconds)
        placement = find_placement(self.model, self.config.memory)
        nothing = Background(
            torch.zeros(1, device="cpu"), torch.zeros(1, 0, device="cpu"), torch.zeros(0, device="cpu")
        )
        earlier = self.earlier or Memory(
            self.base, self.model.name_or_path, self.config.memory, placement.layer, nothing
        )
        return dataclasses.replace(earlier, report=report)


def _named(context: Context, prompts: Prompts) -> list[Pair]:
    """Who is called what in a context: "my wife", "Solveig"."""
    return pairs([statement.text for statement in context.statements if statement.holds], prompts.named)


def _in_words(writer: Writer, question: Question) -> str:
    return writer.text(question.answer)


def _said(teacher: Writer, questions: Sequence[Question]) -> list[tuple[str, str]]:
    """Questions with their answers in words."""
    return [(question.text, _in_words(teacher, question)) for question in questions]
