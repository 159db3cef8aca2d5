"""A writer whose answers are on disk once they are written, so that a study that was cut off goes on in its middle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from .work import Work
from .writer import Answer, Writer


class KeptWriter(Writer):
    """Answers to the very prompts that it has answered before are read, not written again."""

    def __init__(self, work: Work, role: str, *writer: Any) -> None:
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
