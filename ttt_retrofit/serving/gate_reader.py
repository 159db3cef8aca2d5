"""`GateReader`: which entries of a memory speak in a prompt, found without an answer being written.

Gates depend on what enters one layer, so the base is read up to there: full attention, no window, no fast weights, as
an engine reads it and as the gates were fitted. What a conversation began with is read once.
T tokens, M entries.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..consolidation.model_copies import plain_copy
from ..inner.below import inputs_of
from ..memory.batch import MemoryBatch, MemoryForward
from ..memory.batch_cache import BatchCache
from ..memory.collate import gates_of
from ..memory.entry import Entry
from ..memory.memory import Memory
from ..memory.turns import last_turn
from ..util.texts import common_beginning
from .user import User

MAX_PASTS_BYTES = 1 << 30  # of keys and values of earlier prompts


@dataclass(frozen=True)
class Past:
    """A prompt as the layers below one have read it."""

    layer: str
    ids: list[int]
    cache: DynamicCache

    @property
    def nbytes(self) -> int:
        layers = [layer for layer in self.cache.layers if isinstance(layer, DynamicLayer)]
        kept = [tensor for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None]
        return sum(tensor.nbytes for tensor in kept)


class GateReader:
    """Safe to use from several threads: one prompt is read at a time.

    Parameters
    ----------
    model : a converted model. What is read is its base, which shares its weights.
    """

    def __init__(self, model: Any) -> None:
        self._plain, self._device = plain_copy(model), model.device
        self.tokens = 0  # read so far
        self._gates = BatchCache()
        self._pasts = weakref.WeakKeyDictionary[User, Past]()  # the last prompt of each user; goes with the user
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a prompt is being read."""
        return self._lock.locked()

    def speaking(self, ids: Sequence[int], memory: Memory, user: User) -> list[Entry]:
        """The entries whose gate opens somewhere in the last turn of a prompt. What an answer says opens none."""
        with self._lock, torch.no_grad():
            # Gates begin anew with the last turn: what comes before it need not be read again.
            start = last_turn(ids, memory.opener)
            before = 0 if start is None else start + 1 - len(memory.opener)
            cache, known = self._begun(user, memory.layer, ids[:before])
            batch = torch.tensor([list(ids[known:])], device=self._device)
            forward = MemoryForward.of_texts(self._gates_of(memory), None, [len(ids) - known], batch)
            with inputs_of(self._plain.get_submodule(memory.layer), last=True) as reached:
                self._plain(input_ids=batch, past_key_values=cache, use_cache=True)
            self.tokens += len(ids) - known
            forward.find_gates(reached[0])
            self._keep(user, Past(memory.layer, list(ids), cache))
        if forward.openings is None:
            return []
        opened: list[bool] = (forward.openings > 0)[0].any(0).tolist()  # (1, T, M) -> M
        return [entry for entry, speaks in zip(memory.entries, opened) if speaks]

    def _begun(self, user: User, layer: str, ids: Sequence[int]) -> tuple[DynamicCache, int]:
        """A cache of what these tokens begin with, and how many that are."""
        past = self._pasts.pop(user, None)
        known = 0 if past is None or past.layer != layer else len(common_beginning([[*ids, -1], [*past.ids, -1]]))
        if past is None or not known:
            return DynamicCache(config=self._plain.config), 0
        past.cache.crop(known - len(past.ids))
        return past.cache, known

    def _keep(self, user: User, past: Past) -> None:
        plain = all(type(layer) is DynamicLayer for layer in past.cache.layers)  # others cannot be cut
        if plain and past.cache.get_seq_length() == len(past.ids):  # not 0, where the gates are at the lowest layer
            self._pasts[user] = past
        while sum(kept.nbytes for kept in self._pasts.values()) > MAX_PASTS_BYTES:
            self._pasts.pop(next(iter(self._pasts.keys())))

    def _gates_of(self, memory: Memory) -> MemoryBatch:
        """The gates without the terms, which are for the engine."""
        where = self._device, self._plain.dtype
        known = self._gates.find([memory], where)
        if known is not None and known.batch is not None:
            return known.batch
        batch = MemoryBatch(memory.layer, gates_of([memory], self._device), {})
        self._gates.put([memory], where, batch)
        return batch
