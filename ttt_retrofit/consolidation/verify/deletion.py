"""Verifies a deletion: the facts are not answered any more, and the others are.

Judged by what is generated, as `verify` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...memory.collate import collate
from ...memory.facts import Fact
from ...memory.lessons import TAUGHT, Lesson
from ...memory.memory import Memory
from ...memory.report import Report
from ..facts.checks import holds, words_of
from ..forgetting import Forgetting
from ..model_copies import private_copy
from ..study.answers import given_by
from ..writer import Writer
from . import verification as verify

MOST_LOST = 0.1  # share of the questions about other facts that may be lost; one may in any case


@dataclass(frozen=True)
class Asked:
    """What a memory answers after a deletion."""

    questions: int  # about what was deleted
    still: tuple[str, ...]  # answers that tell it all the same
    others: int  # questions about other facts
    right: int  # of these
    lost: tuple[str, ...]  # facts that are not answered any more


@dataclass(frozen=True)
class ForgottenVerification:
    """What a memory is asked after a deletion."""

    work: Forgetting

    def asked(self, candidate: Memory) -> Asked:
        """What the candidate answers about the facts, and about the others of the entries that they were in."""
        touched = [entry for entry in self.work.memory.entries if any(map(self.work.depends, entry.lessons))]
        gone = [lesson for entry in touched for lesson in entry.lessons if self.work.depends(lesson)]
        values = [(lesson, self._value(lesson)) for lesson in gone if lesson.kind in TAUGHT]
        values = [(lesson, value) for lesson, value in values if value]
        names = {entry.name for entry in touched} & {*candidate.names()}
        facts = {fact.id: fact for entry in self.work.memory.entries for fact in entry.facts}
        others = []
        for entry in touched:
            for lesson in entry.lessons if entry.name in names else ():
                if lesson.kind == "fact" and lesson.held_out and not self.work.depends(lesson):
                    told = " ".join(facts[name].text for name in lesson.facts or () if name in facts)
                    value = self._given(lesson, told)
                    others += [(lesson, value)] if value else []
        with_it, alone = self._writer(candidate), self._writer(dataclasses.replace(candidate, entries=()))
        prompts = [[*lesson.prompt] for lesson, _ in (*values, *others)]
        answers = self._answers(with_it, prompts)
        about, rest = answers[: len(values)], answers[len(values) :]
        telling = [(lesson, value, said) for (lesson, value), said in zip(values, about) if _tells(said, lesson, value)]
        # What the base knows by itself, it was not told.
        known = self._answers(alone, [[*lesson.prompt] for lesson, _, _ in telling])
        still = [said for (lesson, value, said), base in zip(telling, known) if not _tells(base, lesson, value)]
        wrong = [lesson for (lesson, value), said in zip(others, rest) if not holds(said, value)]
        before = self._answers(self._writer(self.work.memory), [[*lesson.prompt] for lesson in wrong])
        given = {id(lesson): value for lesson, value in others}
        lost = [lesson for lesson, said in zip(wrong, before) if holds(said, given[id(lesson)])]
        ids = dict.fromkeys(name for lesson in lost for name in (lesson.facts or ())[:1])
        return Asked(len(values), tuple(still), len(others), len(others) - len(wrong), tuple(ids))

    def _value(self, lesson: Lesson) -> frozenset[str]:
        """What an answer must not hold: what it took from the facts. Of an overview, their own names."""
        if lesson.kind == "overview":
            return frozenset(self.work.traces.own - words_of(self.work.instead))
        told = " ".join(self.work.gone[name].text for name in lesson.facts or self.work.gone if name in self.work.gone)
        return frozenset(self._given(lesson, told) - words_of(self.work.instead))

    def _given(self, lesson: Lesson, told: str) -> frozenset[str]:
        said = self.work.told.in_words(lesson)
        return given_by(said.answer, said.question, told)

    def _writer(self, memory: Memory) -> Writer:
        converted = private_copy(self.work.model)
        return Writer(
            converted,
            self.work.tokenizer,
            self.work.control.check,
            converted.new_cache,
            memories=memory,
            learn_from="none",
        )

    def _answers(self, writer: Writer, prompts: Sequence[Sequence[int]]) -> list[str]:
        return verify.answered(writer, prompts, self.work.config.answer_tokens, line=not self.work.formatter.chat)

    def verified(self, candidate: Memory) -> Memory:
        """The candidate with its report, and with the facts that it lost marked as not learned."""
        self.work.control.at("verify", 0, verify.PARTS)
        asked = self.asked(candidate)
        self.work.control.at("verify", 2, verify.PARTS)
        moved, chat = self._elsewhere(candidate) if self.work.steps else (verify.Drift(0.0, 0.0), None)
        accepted, reason = self.decided(asked)
        if accepted:
            recipe = dataclasses.replace(self.work.config, min_recall=0.0)
            sound, why = verify.acceptance(1.0, asked.others, moved, chat, recipe)
            accepted, reason = sound, reason if sound else why
        candidate = marked(candidate, asked)
        self.work.control.at("done", 1, 1)
        report = Report(
            accepted=accepted,
            reason=reason,
            recall_before=None,
            recall=asked.right / asked.others if asked.others else None,
            questions=asked.others,
            false_memories=None,
            false_memories_before=None,
            drift_kl=moved.kl,
            drift_loss=moved.loss,
            steps=self.work.steps,
            lessons=self.work.lessons,
            tokens=self.work.student.tokens,
            seconds=dict(self.work.control.seconds),
            facts=len(candidate.facts()),
            unlearned=tuple(fact.id for fact in candidate.unlearned()),
            chat_changed=None if chat is None else chat.changed,
            chat_refused=None if chat is None else chat.refused,
            **counted(self.work, asked),
        )
        return dataclasses.replace(candidate, report=report)

    def decided(self, asked: Asked) -> tuple[bool, str]:
        """Whether the facts are gone and the others there, and why not."""
        names = [entry.name for entry in self.work.memory.entries if any(f.id in self.work.gone for f in entry.facts)]
        if asked.still:
            said = [
                fact.id for fact in self.work.traces.left if any(self._says(fact, answer) for answer in asked.still)
            ]
            together = f"Facts {said} say so, too: delete them together. Or forget" if said else "Forget"
            return False, (
                f"{len(asked.still)} of {asked.questions} questions about it are still answered. {together} the entry, "
                f"forget_memory({', '.join(map(repr, names))}), and consolidate again what is to stay."
            )
        if len(asked.lost) > max(1, MOST_LOST * asked.others):
            return False, (
                f"{len(asked.lost)} other facts would be lost. Forget the entry, forget_memory("
                f"{', '.join(map(repr, names))}), and consolidate again what is to stay."
            )
        return True, f"none of {asked.questions} questions about it is answered, {len(asked.lost)} others were lost."

    def _says(self, fact: Fact, answer: str) -> bool:
        told = frozenset().union(*(given_by(answer, "", gone.text) for gone in self.work.gone.values()))
        return bool(told) and fact.status == "current" and holds(fact.text, told)

    def _elsewhere(self, candidate: Memory) -> tuple[verify.Drift, verify.InChat | None]:
        """How far unrelated texts and requests in a chat are moved."""
        texts = [self.work.tokenizer(text, add_special_tokens=False).input_ids for text in self.work.prompts.unrelated]
        model = self.work.student.model
        memories = collate([candidate], model.device, model.dtype)
        if memories is None:
            return verify.Drift(0.0, 0.0), None
        below = self.work.student.below(texts)
        lessons = (x for entry in candidate.entries for x in entry.lessons if x.kind == "fact" and not x.held_out)
        said = [self.work.told.in_words(lesson) for lesson in lessons]
        base = self._writer(dataclasses.replace(candidate, entries=()))
        verification = verify.Verification(
            base, self._writer(candidate), self.work.formatter, [], [],
            [(one.question, one.answer) for one in said], self.work.prompts.kept_general, self.work.abstention,
            partial(verify.drift, self.work.student, texts, below, memories),
        )  # fmt: skip
        return verification.moved(), verification.in_chat()


def _tells(answer: str, lesson: Lesson, value: frozenset[str]) -> bool:
    """Whether an answer holds what it must not: an overview any word of it, another one all."""
    return any(holds(answer, {word}) for word in value) if lesson.kind == "overview" else holds(answer, value)


def counted(work: Forgetting, asked: Asked) -> dict[str, Any]:
    """What a report says of a deletion."""
    return {"forgotten": len(work.gone), "still_answered": len(asked.still), "lost": len(asked.lost)}


def marked(memory: Memory, asked: Asked) -> Memory:
    """The memory, whose lost facts are words."""
    entries = (
        dataclasses.replace(
            entry,
            facts=tuple(dataclasses.replace(f, learned=False) if f.id in asked.lost else f for f in entry.facts),
        )
        for entry in memory.entries
    )
    return dataclasses.replace(memory, entries=tuple(entries))
