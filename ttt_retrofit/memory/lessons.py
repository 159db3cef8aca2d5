"""`Lesson`: one thing studied. Kept with a memory, since later consolidations replay what earlier ones learned.

N answer tokens, P kept logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..util.display import Displayed, Rows

LessonKind = Literal["fact", "overview", "unknown", "general", "text"]
TAUGHT: tuple[LessonKind, ...] = ("fact", "overview", "text")  # kinds that tell something


@dataclass(frozen=True, repr=False)
class Lesson(Displayed):
    """One thing studied: what is asked, what the teacher answered, and how sure it was of every token."""

    kind: LessonKind
    prompt: tuple[int, ...]  # token ids, chat template included
    answer: tuple[int, ...]  # N token ids
    indices: Tensor  # (N, P) int32, the teacher's likeliest tokens
    logprobs: Tensor  # (N, P) float16, their log probabilities; what is left is the tail's
    held_out: bool = False  # asked in verification, never trained on
    facts: tuple[str, ...] | None = None  # ids of those that it depends on; None in memories of earlier versions

    def _rows(self) -> Rows:
        return {"kind": self.kind, "tokens": self.tokens, "held_out": self.held_out or None}  # not what was said

    @property
    def tokens(self) -> int:
        return len(self.prompt) + len(self.answer)


def pack_lessons(lessons: Sequence[Lesson]) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """Lessons laid end to end in three tensors, and what tells them apart as JSON."""
    if not lessons:
        return {}, []
    ids = [token for lesson in lessons for token in (*lesson.prompt, *lesson.answer)]
    tensors = {
        "lesson_ids": torch.tensor(ids, dtype=torch.int32, device="cpu"),
        "lesson_indices": torch.cat([lesson.indices.flatten() for lesson in lessons]),
        "lesson_logprobs": torch.cat([lesson.logprobs.flatten() for lesson in lessons]),
    }
    return tensors, [_header(lesson) for lesson in lessons]


def _header(lesson: Lesson) -> list[Any]:
    sizes = [lesson.kind, len(lesson.prompt), len(lesson.answer), lesson.indices.shape[1], lesson.held_out]
    return sizes if lesson.facts is None else [*sizes, list(lesson.facts)]


def unpack_lessons(tensors: dict[str, Tensor], header: Sequence[Sequence[Any]]) -> tuple[Lesson, ...]:
    """The inverse of `pack_lessons`. Raises `ValueError` where the header counts other tokens than there are."""
    lessons, at, logit = [], 0, 0
    ids = tensors["lesson_ids"].tolist() if header else []
    for kind, prompt, answer, kept, held_out, *rest in header:
        span = slice(logit, logit + answer * kept)
        indices = tensors["lesson_indices"][span].view(answer, kept)
        logprobs = tensors["lesson_logprobs"][span].view(answer, kept)
        middle, end = at + prompt, at + prompt + answer
        facts = tuple(rest[0]) if rest else None
        lessons.append(Lesson(kind, tuple(ids[at:middle]), tuple(ids[middle:end]), indices, logprobs, held_out, facts))
        at, logit = end, logit + answer * kept
    if at != len(ids):
        raise ValueError(f"its lessons have {at} tokens, {len(ids)} are there")
    return tuple(lessons)
