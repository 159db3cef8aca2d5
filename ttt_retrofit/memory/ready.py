"""`Ready`: the latest combinations of memories that were collated.

Preparing stacks and converts every tensor, which is too much for each token. Nothing here keeps a memory alive: when
one of a combination is let go, all that was prepared of it goes with it.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .batch import MemoryBatch
from .memory import Memory

AT_MOST = 4  # combinations

Placement = tuple[torch.device, torch.dtype]


@dataclass(frozen=True, eq=False)
class Combination:
    """The memories of the rows of a batch; None for a row that has none."""

    memories: tuple[weakref.ref[Memory] | None, ...]
    placement: Placement
    batch: MemoryBatch | None

    def fits(self, memories: Sequence[Memory | None], placement: Placement) -> bool:
        return (
            self.placement == placement
            and len(self.memories) == len(memories)
            and all((a if a is None or b is None else a()) is b for a, b in zip(self.memories, memories))
        )


class Ready:
    """Safe to use from several threads. A copy, or a pickle, begins empty."""

    def __init__(self) -> None:
        # A memory may go, and its combinations with it, in the middle of any statement: of this very thread, too.
        self._lock = threading.RLock()
        self._kept: list[Combination] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return Ready, ()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, memories: Sequence[Memory | None], placement: Placement) -> Combination | None:
        """The combination of these very objects, one for each row, if it is ready."""
        return next((kept for kept in self._kept if kept.fits(memories, placement)), None)

    def put(self, memories: Sequence[Memory | None], placement: Placement, batch: MemoryBatch | None) -> None:
        """Keep what was prepared until one of the memories goes, or others have been prepared since."""
        this = weakref.ref(self)

        def gone(memory: weakref.ref[Memory]) -> None:
            ready = this()
            if ready is not None:
                ready._drop(memory)

        refs = {id(memory): weakref.ref(memory, gone) for memory in memories if memory is not None}
        known = tuple(None if memory is None else refs[id(memory)] for memory in memories)
        with self._lock:
            self._kept = [*self._kept[1 - AT_MOST :], Combination(known, placement, batch)]

    def _drop(self, memory: weakref.ref[Memory]) -> None:
        with self._lock:
            self._kept = [kept for kept in self._kept if not any(known is memory for known in kept.memories)]
