"""The reference set: texts and questions unrelated to the context, and the answers of the base alone.

The gate of an entry stays shut on them. All entries of a memory share one background, which is measured on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..memory.entry import GateKeys
from ..memory.gates import Background
from ..util.prompt_formatter import PromptFormatter
from .distill import EncodedLesson
from .gate_calibration import find_background, find_gate
from .prompts import Prompts
from .student import Student
from .writer import Answer, Writer

BEGINNING = 8  # tokens of a general answer: whether a memory disturbs it shows in these


@dataclass(frozen=True)
class ReferenceSet:
    """Token ids of texts and prompts, and what enters the gates' layer for each: (T, D)."""

    texts: list[list[int]]
    below_texts: list[Tensor]
    prompts: list[list[int]]
    below_prompts: list[Tensor]  # of the prompts, each with the beginning of the base's own answer
    background: Background  # of all of them

    def gate_of(self, studied: Sequence[EncodedLesson]) -> GateKeys:
        """A gate for these lessons that stays shut on them."""
        ends = [(p.below, len(p.lesson.prompt)) for p in studied]
        return find_gate(ends, self.below_texts, self.below_prompts, self.background)


def build_reference_set(
    student: Student, teacher: Writer, formatter: PromptFormatter, prompts: Prompts, known: Background | None
) -> ReferenceSet:
    """The reference set of a student. known: the background of the earlier entries, which is kept."""
    texts = [formatter.tokenizer(text, add_special_tokens=False).input_ids for text in prompts.unrelated]
    alone = [formatter.asked(question) for question in prompts.general]
    begun = [list(answer.ids) for answer in beginnings(teacher, formatter, alone, kept=1)]
    # Every other one after one more and a reply, too. There an answer begins alike; it is not written again.
    some = prompts.general[::2]
    before = (*some[-1:], *some[:-1])
    in_a_chat = [formatter.asked_after(one, prompts.replied, question) for one, question in zip(before, some)]
    asked, answers = [*alone, *in_a_chat], [*begun, *begun[::2]]
    below_texts = student.below(texts)
    below_asked = student.below([prompt + answer for prompt, answer in zip(asked, answers)])
    background = find_background([*below_texts, *below_asked]) if known is None else known.to(student.model.device)
    return ReferenceSet(texts, below_texts, asked, below_asked, background)


def beginnings(teacher: Writer, formatter: PromptFormatter, prompts: Sequence[list[int]], kept: int) -> list[Answer]:
    """How the base's own answers begin, with so many logits of every token."""
    return teacher.answer(prompts, BEGINNING, 64, kept, line=not formatter.chat)
