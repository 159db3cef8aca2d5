"""`GateReader`: which entries of a memory speak in a prompt, found without an answer being written.

Gates depend on what enters one layer, so the base is read up to there: full attention, no window, no fast weights, as
an engine reads it and as the gates were fitted.
T tokens, M entries.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from ..consolidation.model_copies import plain_copy
from ..inner.below import inputs_of
from ..memory.batch import MemoryBatch, MemoryForward
from ..memory.batch_cache import BatchCache
from ..memory.collate import gates_of
from ..memory.entry import Entry
from ..memory.memory import Memory


class GateReader:
    """Safe to use from several threads: one prompt is read at a time.

    Parameters
    ----------
    model : a converted model. What is read is its base, which shares its weights.
    """

    def __init__(self, model: Any) -> None:
        self._plain = plain_copy(model)
        self._gates = BatchCache()
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a prompt is being read."""
        return self._lock.locked()

    def speaking(self, ids: Sequence[int], memory: Memory) -> list[Entry]:
        """The entries whose gate opens somewhere in the last turn of a prompt. What an answer says opens none."""
        with self._lock, torch.no_grad():
            batch = torch.tensor([list(ids)], device=self._plain.device)
            forward = MemoryForward.of_texts(self._gates_of(memory), None, [len(ids)], batch)
            with inputs_of(self._plain.get_submodule(memory.layer), last=True) as reached:
                self._plain(input_ids=batch, use_cache=False)
            forward.find_gates(reached[0])
        if forward.openings is None:
            return []
        opened: list[bool] = (forward.openings > 0)[0].any(0).tolist()  # (1, T, M) -> M
        return [entry for entry, speaks in zip(memory.entries, opened) if speaks]

    def _gates_of(self, memory: Memory) -> MemoryBatch:
        """The gates without the terms, which are for the engine."""
        where = self._plain.device, self._plain.dtype
        known = self._gates.find([memory], where)
        if known is not None and known.batch is not None:
            return known.batch
        batch = MemoryBatch(memory.layer, gates_of([memory], self._plain.device), {})
        self._gates.put([memory], where, batch)
        return batch
