"""A writer that caches its answers on disk, so that an interrupted study goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from .work_directory import WorkDirectory
from .writer import Answer, Writer


class CachedWriter(Writer):
    """Reads the answers to prompts that it has answered before from the work directory."""

    def __init__(self, work: WorkDirectory, role: str, *writer: Any) -> None:
        """`role` tells apart those that share a work, and may be other models; the rest is for `Writer`."""
        super().__init__(*writer)
        self.work, self.role = work, role

    def answer(self, prompts: Sequence[Sequence[int]], longest: int, *how: Any, **named: Any) -> list[Answer]:
        asked = [self.role, [list(prompt) for prompt in prompts], longest, how, named]
        name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
        answers = self.work.load_answers(name)
        if answers is None:
            answers = super().answer(prompts, longest, *how, **named)
            self.work.save_answers(name, answers)
        return answers
