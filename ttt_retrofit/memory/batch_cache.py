"""`BatchCache`: the memory batches that were collated last.

Collating stacks and converts every tensor, which is too slow for each token. The cache keeps no memory alive: a batch
is dropped as soon as one of its memories is garbage-collected.
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

AT_MOST = 4  # batches

DeviceAndDtype = tuple[torch.device, torch.dtype]


@dataclass(frozen=True, eq=False)
class CachedBatch:
    """A collated batch, and what it was collated from."""

    memories: tuple[weakref.ref[Memory] | None, ...]  # by row; None for a row without one
    where: DeviceAndDtype
    batch: MemoryBatch | None

    def fits(self, memories: Sequence[Memory | None], where: DeviceAndDtype) -> bool:
        return (
            self.where == where
            and len(self.memories) == len(memories)
            and all((a if a is None or b is None else a()) is b for a, b in zip(self.memories, memories))
        )


class BatchCache:
    """Safe to use from several threads. A copy, or a pickle, begins empty."""

    def __init__(self) -> None:
        # A memory may go, and its batches with it, in the middle of any statement: of this very thread, too.
        self._lock = threading.RLock()
        self._batches: list[CachedBatch] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return BatchCache, ()

    def __len__(self) -> int:
        return len(self._batches)

    def find(self, memories: Sequence[Memory | None], where: DeviceAndDtype) -> CachedBatch | None:
        """The batch of these very objects, one for each row, if it is cached."""
        return next((cached for cached in self._batches if cached.fits(memories, where)), None)

    def put(self, memories: Sequence[Memory | None], where: DeviceAndDtype, batch: MemoryBatch | None) -> None:
        """Keep a batch until one of its memories is gone, or `AT_MOST` others have been put."""
        this = weakref.ref(self)

        def gone(memory: weakref.ref[Memory]) -> None:
            cache = this()
            if cache is not None:
                cache._drop(memory)

        refs = {id(memory): weakref.ref(memory, gone) for memory in memories if memory is not None}
        known = tuple(None if memory is None else refs[id(memory)] for memory in memories)
        with self._lock:
            self._batches = [*self._batches[1 - AT_MOST :], CachedBatch(known, where, batch)]

    def _drop(self, memory: weakref.ref[Memory]) -> None:
        with self._lock:
            self._batches = [
                cached for cached in self._batches if not any(known is memory for known in cached.memories)
            ]
