"""Deletes facts from a memory: what depends on them goes, and only that is distilled again.

An entry that told nothing else is dropped. The weights of another are trained on from where they are: to decline the
questions about what is deleted, and to answer the others as before. These questions are not kept. The gate loses their
keys.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import ConfigError
from ..memory.batch import MemoryBatch
from ..memory.collate import collate
from ..memory.entry import Entry
from ..memory.facts import Fact, without
from ..memory.lessons import TAUGHT, Lesson
from ..memory.memory import Memory
from ..memory.projections import find_placement
from ..util.prompt_formatter import PromptFormatter
from .config import ConsolidationConfig
from .control import Control
from .earlier_lessons import EarlierLessons
from .facts.checks import names_in, words_of
from .facts.languages import nearest
from .facts.related import common, terms
from .model_copies import plain_copy
from .prompts import Prompts, fill
from .study.lessons import certain
from .study.overview import MOST_TOKENS
from .train.distill import EncodedLesson, Leaves, begin_training, learning_rate, train, with_new_entry
from .train.gate_calibration import TextMeans, with_keys, without_keys
from .train.new_entry import STORED
from .train.student import Student
from .verify.traces import Traces

LEAST_STEPS = 24
PASSES = 6  # over the questions that are to be declined, unless they all are before
GENTLE = 0.5  # of the usual learning rate: most of what the weights hold is to stay
REPLAYED, NEGATIVES = 0.5, 0.125  # shares of a step for lessons that stay, and for those that were declined before


@dataclass
class Forgetting:
    """What is to be deleted, and out of which memory.

    Attributes
    ----------
    model : a converted model, which stays as it is.
    ids : of the facts.
    instead : the text of a fact that takes their place; what both tell may be answered.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    memory: Memory
    ids: tuple[str, ...]
    config: ConsolidationConfig
    control: Control
    prompts: Prompts
    instead: str = ""
    steps: int = 0
    lessons: int = 0
    student: Student = field(init=False)
    gone: dict[str, Fact] = field(init=False)
    traces: Traces = field(init=False)

    def __post_init__(self) -> None:
        facts = {fact.id: fact for entry in self.memory.entries for fact in entry.facts}
        unknown = [name for name in self.ids if name not in facts]
        if unknown or not self.ids:
            raise ConfigError(f"No fact has the id {', '.join(map(repr, unknown))}. memory.facts(None) lists them all.")
        for entry in self.memory.entries:
            owned = [fact.id for fact in entry.facts if fact.id in self.ids]
            if owned and any(lesson.facts is None for lesson in entry.lessons):
                raise ConfigError(
                    f"Facts {owned} are of the entry {entry.name!r}, which was made by an earlier version: which of "
                    f"its lessons depend on them is not known. Forget the entry, forget_memory({entry.name!r}), and "
                    "consolidate again what is to stay."
                )
        placement = find_placement(self.model, self.memory.config)
        if placement.layer != self.memory.layer:
            raise ConfigError(
                f"The memory has its gates at {self.memory.layer}, its configuration would have them at "
                f"{placement.layer}: it was combined of others. Delete the fact in the memory that it came from."
            )
        self.gone = {name: facts[name] for name in self.ids}
        self.traces = Traces([*self.gone.values()], [fact for fact in facts.values() if fact.id not in self.gone])
        self.student = Student(plain_copy(self.model), placement, self.memory.opener)
        self.formatter = PromptFormatter(self.tokenizer, self.prompts.plain)
        self.told = EarlierLessons(self.formatter)
        width = self.model.config.get_text_config(decoder=True).hidden_size
        lr = GENTLE * learning_rate(width) if self.config.lr is None else self.config.lr
        self.recipe = dataclasses.replace(
            self.config, memory=self.memory.config, lr=lr, epochs=PASSES, least_steps=LEAST_STEPS, replay=REPLAYED,
            negatives=NEGATIVES,
        )  # fmt: skip
        language = nearest(" ".join(fact.text for fact in self.gone.values()))
        self.abstention = self.prompts.declining(language)

    def depends(self, lesson: Lesson) -> bool:
        """Whether a lesson goes; one of an earlier version does where it has a name of theirs."""
        if lesson.facts is not None:
            return not self.gone.keys().isdisjoint(lesson.facts)
        text = self.tokenizer.decode([*lesson.prompt, *lesson.answer], skip_special_tokens=True)
        return not self.traces.own.isdisjoint(words_of(str(text)))

    # ------------------------------------------------------------------ distilling

    def distilled(self) -> Memory:
        """The memory without the facts, not verified yet.

        Raises
        ------
        FloatingPointError
            When the training diverges.
        """
        entries = {entry.name: entry for entry in self.memory.entries}
        for entry in self.memory.entries:
            gone = [lesson for lesson in entry.lessons if self.depends(lesson)]
            if not gone and self.gone.keys().isdisjoint(fact.id for fact in entry.facts):
                continue
            del entries[entry.name]
            left = self._without(entry, gone, [*entries.values()])
            if left is not None:
                entries[entry.name] = left
        kept = [entries[entry.name] for entry in self.memory.entries if entry.name in entries]
        if not self.instead:  # else what they superseded stays so
            kept = [dataclasses.replace(entry, facts=without(entry.facts, self.gone)) for entry in kept]
        return dataclasses.replace(self.memory, entries=tuple(kept), report=None, created=time.time())

    def _without(self, entry: Entry, gone: Sequence[Lesson], others: Sequence[Entry]) -> Entry | None:
        """The entry as it is left; None where it told nothing else."""
        facts = tuple(fact for fact in entry.facts if fact.id not in self.gone)
        left = [lesson for lesson in entry.lessons if not self.depends(lesson)]
        anew = self._retold(gone, facts)
        sources = tuple(map(self.traces.source, entry.sources))
        entry = dataclasses.replace(entry, facts=facts, notes=self.traces.notes(entry.notes), sources=sources)
        if not any(lesson.kind in TAUGHT for lesson in left):
            return _silent(entry) if any(fact.text for fact in facts) else None
        answered = {lesson.prompt for lesson in (*left, *anew)}
        declined = [
            certain("unknown", list(lesson.prompt), self.formatter.said(self.abstention))
            for lesson in gone
            if lesson.kind in TAUGHT and not lesson.held_out and lesson.prompt not in answered
        ]
        encoded = self._encoded([*left, *gone, *anew, *declined])
        kept, removed, new, unknown = (
            [p for p in encoded if any(p.lesson is lesson for lesson in some)] for some in (left, gone, anew, declined)
        )
        weights = self._trained(entry, [*new, *unknown], kept, others)
        gate = without_keys(entry.gate, self._means(removed), self.memory.background, self._means([*kept, *new]))
        if new or not len(gate.keys):
            more = [p for p in kept if p.lesson.kind in TAUGHT and not p.lesson.held_out] if not len(gate.keys) else []
            gate = with_keys(gate, self._means([*new, *more]), self.memory.background)
        return dataclasses.replace(entry, weights=weights, gate=gate, lessons=(*left, *anew))

    def _retold(self, gone: Sequence[Lesson], facts: Sequence[Fact]) -> list[Lesson]:
        """The overviews that told the facts, with those that are left."""
        found = []
        for lesson in gone:
            if lesson.kind != "overview":
                continue
            ids = tuple(name for name in lesson.facts or () if name not in self.gone)
            told, tokens = [], MOST_TOKENS
            for fact in facts:
                size = len(self.tokenizer(fact.text, add_special_tokens=False).input_ids)
                if fact.id in ids and fact.status == "current" and size <= tokens:
                    told.append(fact.text)
                    tokens -= size
            if told:
                answer = self.formatter.said(fill(self.prompts.overviewed, told=" ".join(told)))
                found.append(dataclasses.replace(certain("overview", list(lesson.prompt), answer), facts=ids))
        return found

    def _encoded(self, lessons: Sequence[Lesson]) -> list[EncodedLesson]:
        below = self.student.below([(*lesson.prompt, *lesson.answer) for lesson in lessons])
        return [EncodedLesson(lesson, hidden) for lesson, hidden in zip(lessons, below)]

    def _means(self, lessons: Sequence[EncodedLesson]) -> list[tuple[TextMeans, int]]:
        """Of the lessons that gates have keys of."""
        opener = self.memory.opener
        told = (p for p in lessons if p.lesson.kind in TAUGHT)
        return [(TextMeans.of(p.below, p.ids, opener), len(p.lesson.prompt)) for p in told]

    def _trained(
        self, entry: Entry, taught: Sequence[EncodedLesson], kept: Sequence[EncodedLesson], others: Sequence[Entry]
    ) -> dict[str, dict[str, torch.Tensor]]:
        """The entry's weights after some steps in which the taught lessons are learned and the kept ones replayed.

        Its gate still opens for what it is to decline.
        """
        if not taught:
            return entry.weights
        device, background = self.student.model.device, self.memory.background
        leaves: Leaves = {
            path: {name: tensor.to(device, torch.float32, copy=True).requires_grad_() for name, tensor in part.items()}
            for path, part in entry.weights.items()
        }
        bank = dataclasses.replace(self.memory, entries=tuple(others))
        earlier = collate([bank], device, torch.float32)

        def memories(leaves: Leaves) -> MemoryBatch:
            return with_new_entry(
                earlier, entry.gate, background.to(device), self.memory.config.gated, leaves, self.memory.layer, device,
                self.memory.opener,
            )  # fmt: skip

        replays = [p for p in kept if p.lesson.kind in TAUGHT and not p.lesson.held_out]
        negatives = [p for p in kept if p.lesson.kind not in TAUGHT]
        state = begin_training(leaves)
        prompts = [p.lesson.prompt for p in [*taught, *replays, *negatives]]
        self.student.share(prompts, memories(leaves))
        train(
            self.student, [[p] for p in taught], negatives, replays, taught, memories, state, self.recipe, self.control,
            lambda state: None,
        )  # fmt: skip
        self.steps, self.lessons = self.steps + state.step, self.lessons + len(taught)
        return {
            path: {name: leaf.detach().to("cpu", STORED) for name, leaf in by_name.items()}
            for path, by_name in leaves.items()
        }

    def asked_before(self) -> list[tuple[str, str]]:
        """Questions about the facts and their answers, for what takes their place; none that names what is gone."""
        lessons = (x for entry in self.memory.entries for x in entry.lessons if self.depends(x) and x.kind == "fact")
        said = dict.fromkeys(map(self.told.in_words, lessons))
        told = " ".join(fact.text for fact in self.gone.values())
        named = names_in(fact.text for fact in self.gone.values()) - words_of(self.instead)
        about = terms(told) - terms(self.instead) - common(nearest(told))
        return [
            (one.question, one.answer)
            for one in said
            if (named or about).isdisjoint(words_of(one.question) if named else terms(one.question))
        ]


def _silent(entry: Entry) -> Entry:
    """An entry whose facts are words alone: it adds nothing, and its gate never opens."""
    weights = {path: {name: t * 0 for name, t in by_name.items()} for path, by_name in entry.weights.items()}
    gate = dataclasses.replace(entry.gate, keys=torch.zeros_like(entry.gate.keys[:1]), closed=2.0, opened=3.0)
    facts = tuple(dataclasses.replace(f, learned=False) if f.learned else f for f in entry.facts)
    return dataclasses.replace(entry, weights=weights, gate=gate, lessons=(), facts=facts)
