"""What is elsewhere: texts and questions about nothing of the context, and how the base alone answers them.

An entry's gate stays shut on them, and the entries of a bank are measured against one background of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..memory.entry import GateKeys
from ..memory.gates import Background
from ..util.phrasing import Phrasing
from .distill import Prepared
from .gate_calibration import find_background, find_gate
from .prompts import Prompts
from .student import Student
from .writer import Answer, Writer

BEGINNING = 8  # tokens of a general answer: whether a memory disturbs it shows in these


@dataclass(frozen=True)
class Elsewhere:
    """Token ids, and what enters the gates' layer for each: (T, D)."""

    texts: list[list[int]]
    below_texts: list[Tensor]
    asked: list[list[int]]
    below_asked: list[Tensor]  # of the beginnings of the base's own answers, too
    background: Background  # of all of them

    def gate_of(self, studied: Sequence[Prepared]) -> GateKeys:
        """A gate for these lessons that stays shut on them."""
        ends = [(p.below, len(p.lesson.prompt)) for p in studied]
        return find_gate(ends, self.below_texts, self.below_asked, self.background)


def look_elsewhere(
    student: Student, teacher: Writer, phrasing: Phrasing, prompts: Prompts, known: Background | None
) -> Elsewhere:
    """Known is the background of the bank, which stays what it is."""
    texts = [phrasing.tokenizer(text, add_special_tokens=False).input_ids for text in prompts.unrelated]
    alone = [phrasing.asked(question) for question in prompts.general]
    begun = [list(answer.ids) for answer in beginnings(teacher, phrasing, alone, kept=1)]
    # Every other one after one more and a reply, too. There an answer begins alike; it is not written again.
    some = prompts.general[::2]
    before = (*some[-1:], *some[:-1])
    in_a_chat = [phrasing.asked_after(one, prompts.replied, question) for one, question in zip(before, some)]
    asked, answers = [*alone, *in_a_chat], [*begun, *begun[::2]]
    below_texts = student.below(texts)
    below_asked = student.below([prompt + answer for prompt, answer in zip(asked, answers)])
    background = find_background([*below_texts, *below_asked]) if known is None else known.to(student.model.device)
    return Elsewhere(texts, below_texts, asked, below_asked, background)


def beginnings(teacher: Writer, phrasing: Phrasing, prompts: Sequence[list[int]], kept: int) -> list[Answer]:
    """How the base's own answers begin, with so many logits of every token."""
    return teacher.answer(prompts, BEGINNING, 64, kept, line=not phrasing.chat)
