"""One consolidation from beginning to end: study, prefix, gate, training, verification, decision.

It changes nothing but its own private copy of the model, and returns a candidate with its report.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import itertools
import json
from collections.abc import Sequence
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
from ..memory.memory import Memory
from ..memory.projections import Placement, find_placement
from ..memory.report import Report
from ..util.fingerprint import fingerprint
from ..util.prompt_formatter import PromptFormatter
from .cached_writer import CachedTexts, CachedWriter
from .config import ConsolidationConfig
from .control import Control
from .earlier_lessons import EarlierLessons
from .facts.languages import nearest
from .facts.writers import FactWriter, ModelWriter
from .model_copies import plain_copy, private_copy
from .note_selection import within_budget
from .prompts import KEPT, Prompts
from .study.asking import Asking
from .study.pieces import Context
from .study.review import EVERYTHING, Review
from .study.studied import Studied, Studying
from .train.distill import Leaves, TrainingState, begin_training, fresh_leaves, train, with_new_entry
from .train.new_entry import new_entry
from .train.plan import Plan
from .train.planning import Planning
from .train.reference_set import ReferenceSet, build_reference_set
from .train.student import Student
from .verify import verification as verify
from .work_directory import FORMAT, WorkDirectory
from .writer import Writer


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
    review: Review = EVERYTHING
    tokens: int = 0  # processed by others than the teacher and the student
    formatter: PromptFormatter = field(init=False)
    others: Memory | None = field(init=False)  # the earlier memory without what this very context was taught before
    before: EarlierLessons = field(init=False)
    kept_general: Sequence[str] = field(init=False)  # requests that are asked in verification, and nowhere else

    def __post_init__(self) -> None:
        general = self.prompts.general
        self.kept_general = self.prompts.kept_general
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
            self.review.name,
            json.dumps(self.context.asked_before),
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
        studied, asking = self._study(teacher, work)
        if not studied.asked:
            refused = f" {studied.refused} facts were refused." if studied.refused else ""
            return self._rejected(
                f"no question about the context could be written and answered from it.{refused}",
                teacher.tokens,
                studied.refused,
            )

        opener = self.formatter.opener if self.others is None else self.others.opener
        student = Student(plain_copy(self.model), placement, opener)
        reference = self._reference_set(student, asking, studied)
        planning = Planning(self.context, self.others, self.before, asking, student, self.control)
        plan = planning.plan(studied, reference)
        earlier = None if plan.before is None else collate([plan.before], plain.device, torch.float32)

        def memories(leaves: Leaves) -> MemoryBatch:
            gated, device = self.config.memory.gated, plain.device
            return with_new_entry(
                earlier, plan.gate, reference.background, gated, leaves, placement.layer, device, reference.opener
            )

        state = begin_training(fresh_leaves(placement, self.config.memory, self.config.seed, plain.device))
        taught = itertools.chain.from_iterable(plan.taught)
        prompts = [p.lesson.prompt for p in [*taught, *plan.drawn, *plan.replays, *plan.checks]]
        student.share(prompts, memories(state.leaves))
        work.load_training(state)
        try:
            stopped = train(
                student, plan.taught, plan.drawn, plan.replays, plan.checks, memories, state, self.config,
                self.control, work.save_training,
            )  # fmt: skip
        except FloatingPointError as error:
            return self._rejected(f"training diverged ({error}). Try a smaller lr.", teacher.tokens + student.tokens)
        candidate = self._candidate(plan, studied, state, reference, placement)
        verified = self._verified(student, asking, candidate, plan, studied, reference)
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

    def _reference_set(self, student: Student, asking: Asking, studied: Studied) -> ReferenceSet:
        self.control.at("general", 0, len(self.prompts.general))
        said = studied.said(asking)
        return build_reference_set(student, asking.teacher, self.formatter, self.prompts, said, self.others)

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

    def _study(self, teacher: CachedWriter, work: WorkDirectory) -> tuple[Studied, Asking]:
        """The statements of the context and the questions about them, answered; and how more are answered."""
        writer: FactWriter = ModelWriter("", teacher, self.formatter)
        other = None
        if isinstance(self.writer, tuple):
            other = CachedWriter(work, "writer", *self.writer, self.control.check)
            formatter = PromptFormatter(self.writer[1], self.prompts.plain)
            writer = ModelWriter(self._writer_name, other, formatter)
        elif self.writer is not None:
            writer = CachedTexts(work, self.writer, self.control.check)
        answers_too = None if self.writer is None else writer
        language = nearest(self.context.words)
        asking = Asking(teacher, answers_too, self.formatter, self.prompts, language, self.config)
        studied = work.load_study()
        if studied is None:
            studied = Studying(self.context, writer, asking, self.control, self.review).study(self.own_questions)
            work.save_study(studied)
        self.tokens += 0 if other is None else other.tokens
        return studied, asking

    def _candidate(
        self, plan: Plan, studied: Studied, state: TrainingState, reference: ReferenceSet, placement: Placement
    ) -> Memory:
        """The earlier entries as they are left, and the new one."""
        before = () if plan.before is None else plan.before.entries
        names = [e.name for e in before]
        entry = new_entry(self.context, self.config, self.tokenizer, studied, plan, state.leaves, names)
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
        asking: Asking,
        candidate: Memory,
        plan: Plan,
        studied: Studied,
        reference: ReferenceSet,
    ) -> Memory:
        """The candidate with its report, its facts marked by whether they are known."""
        self.control.at("verify", 0, verify.PARTS)
        converted = private_copy(self.model)
        base, remembering = (
            Writer(converted, self.tokenizer, self.control.check, converted.new_cache, memories=m, learn_from="none")
            for m in (dataclasses.replace(candidate, entries=()), candidate)
        )
        memories = collate([candidate], student.model.device, student.model.dtype)
        assert memories is not None
        verification = verify.Verification(
            base,
            remembering,
            self.formatter,
            verify.chosen(studied, plan.held_out),
            plan.unknown,
            studied.said(asking),
            self.kept_general,
            plan.abstention,
            partial(verify.drift, student, reference.texts, reference.below_texts, memories),
        )
        report, known = verification.report(self.config, self.control)
        self.tokens += base.tokens + remembering.tokens
        *earlier, entry = candidate.entries
        facts = tuple(
            dataclasses.replace(fact, learned=known.get(number, False) and studied.covers(number))
            if fact.status == "current"
            else fact
            for number, fact in enumerate(entry.facts)
        )
        current = [fact for fact in facts if fact.status == "current"]
        report = dataclasses.replace(
            report,
            facts=len(current),
            unlearned=tuple(fact.id for fact in current if not fact.learned),
            dropped=studied.dropped,
            refused=studied.refused,
            superseded=len(facts) - len(current) + plan.superseded,
        )
        return dataclasses.replace(
            candidate, entries=(*earlier, dataclasses.replace(entry, facts=facts)), report=report
        )

    def _rejected(self, reason: str, tokens: int, refused: int = 0) -> Memory:
        """The earlier memory as it was, with a report that says why nothing was added."""
        seconds = dict(self.control.seconds)
        report = Report(
            False, reason, None, None, 0, None, None, 0.0, 0.0, tokens=tokens, seconds=seconds, refused=refused
        )
        placement = find_placement(self.model, self.config.memory)
        nothing = Background(
            torch.zeros(1, device="cpu"), torch.zeros(1, 0, device="cpu"), torch.zeros(0, device="cpu")
        )
        earlier = self.earlier or Memory(
            self.base, self.model.name_or_path, self.config.memory, placement.layer, nothing
        )
        return dataclasses.replace(earlier, report=report)
