"""What a consolidation is about to teach and to ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...memory.entry import GateKeys
from ...memory.lessons import Lesson
from ...memory.memory import Memory
from ..study.answers import Question
from .distill import EncodedLesson


@dataclass(frozen=True)
class Plan:
    """What is to be learned and asked, and where the gate of the new entry opens."""

    before: Memory | None  # the earlier memory, as the context leaves it
    gate: GateKeys
    facts: Sequence[EncodedLesson]
    taught: Sequence[Sequence[EncodedLesson]]  # facts and raw text; of each, how it is taught in one epoch and the next
    negatives: Sequence[EncodedLesson]
    replays: Sequence[EncodedLesson]
    checks: Sequence[EncodedLesson]  # of the questions held out
    held_out: Sequence[Question]
    unknown: Sequence[str]  # questions without an answer that are asked in verification
    abstention: str  # the answer to them
    texts: Sequence[EncodedLesson] = ()  # statements that nothing was asked about, word by word
    near_misses: Sequence[EncodedLesson] = ()  # negatives that come near to what was told
    superseded: int = 0  # facts of the earlier memory that no longer hold

    @property
    def drawn(self) -> list[EncodedLesson]:
        """The negatives as they are drawn from while it learns: the near misses as often as all others together."""
        repeated = len(self.negatives) // max(len(self.near_misses), 1)
        return [*self.negatives, *(list(self.near_misses) * max(repeated, 1))]

    @property
    def studied(self) -> list[Lesson]:
        """What is kept with the memory, for later consolidations."""
        return [p.lesson for p in [*self.facts, *self.texts, *self.checks, *self.negatives, *self.near_misses]]
