"""Writers that cache their answers on disk, so that an interrupted study goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from ..util.messages import Message
from .facts.writers import FactWriter
from .work_directory import WorkDirectory
from .writer import Answer, Writer

TOGETHER = 8  # prompts of a server whose answers are kept at a time


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


class CachedTexts:
    """A writer that is no model of this process, whose texts are kept."""

    def __init__(self, work: WorkDirectory, writer: FactWriter, check: Callable[[], None]) -> None:
        self.name, self._work, self._writer, self._check = writer.name, work, writer, check

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        """Texts are kept a few at a time, so that a server that goes away costs what it was at."""
        found = []
        for start in range(0, len(prompts), TOGETHER):
            some = [list(prompt) for prompt in prompts[start : start + TOGETHER]]
            asked = json.dumps([self.name, some, longest, seed], sort_keys=True)
            name = hashlib.sha256(asked.encode()).hexdigest()[:32]
            texts = self._work.load_texts(name)
            if texts is None or len(texts) != len(some):
                self._check()
                texts = self._writer.complete(some, longest, seed)
                self._work.save_texts(name, texts)
            found += texts
        return found
