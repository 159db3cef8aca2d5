"""Windowed keys and values: which tokens layers keep, in constant memory, and what each token attends to.

A token's *index* counts the real tokens of its row from 0; `window.py` builds masks from indices, so what is kept, in
which order, and beside which padding never changes a result.
B batch rows, H key-value heads, N kept tokens, T new tokens, D head dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, get_layer_types_and_kwargs

from ..config import TTTConfig
from ..errors import UnsupportedModelError
from ..util.devices import on_device
from .window import Attended

ATTENTION_TYPES = ("full_attention", "sliding_attention", "chunked_attention")
# transformers' name for a layer that attends to the keys and values of a layer below, and keeps none.
BORROWING = "dummy"


@dataclass
class LayerGroup:
    """Layers that keep the same tokens: they share one reach, hence one list of indices."""

    window: int | None  # tokens a query reaches back to, itself included; None for all
    sinks: int
    room: int  # tokens that must fit beside the window: the unfinished chunk
    indices: Tensor | None = None  # (B, N), -1 for padding

    @property
    def length(self) -> int:
        return 0 if self.indices is None else self.indices.shape[1]

    def empty(self) -> LayerGroup:
        """The same reach, before the first token."""
        return replace(self, indices=None)

    @property
    def capacity(self) -> int | None:
        return None if self.window is None else self.sinks + self.window - 1 + self.room

    def columns_to_keep(self, read: list[int], waiting: list[int], uniform: bool) -> Tensor:
        """Which kept tokens to go on keeping: sinks, and what a token that is still to be read, or read again, sees.

        Parameters
        ----------
        read : tokens that were read, by row.
        waiting : the last of them, which are read again.

        Returns
        -------
        (M,) column indices if the rows are alike, else (B, M) with -1 where a row keeps fewer.
        """
        assert self.indices is not None and self.window is not None
        device = self.indices.device
        recent = [count + self.window - 1 for count in waiting]
        if uniform:  # sinks stand first, and the tokens right before the next one last
            last = min(recent[0], self.length)
            first = min(self.sinks, self.length - last)
            columns = torch.arange(first + last, device=device)
            columns[first:] += self.length - last - first
            return columns
        oldest = on_device([seen - count for seen, count in zip(read, recent)], device)[:, None]
        keep = (self.indices >= 0) & ((self.indices >= oldest) | (self.indices < self.sinks))
        order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)
        widest = max(min(seen, self.sinks + count) for seen, count in zip(read, recent))
        order = order[:, :widest]
        return order.masked_fill(torch.arange(order.shape[1], device=device) >= keep.sum(1)[:, None], -1)


class WindowedLayer(CacheLayerMixin):
    """Keys and values of one layer, in a buffer that is filled in place and never grows past its capacity.

    What is in use is never written over: a shallow copy can go on with the buffer, and be given up.
    With a graph to keep (the outer loop), tensors are concatenated instead and carry their history.
    """

    def __init__(self, capacity: int | None, is_sliding: bool) -> None:
        super().__init__()
        self.capacity = capacity  # in tokens; None where nothing is dropped
        self.is_sliding = is_sliding
        self.length = 0

    def empty(self) -> WindowedLayer:
        """The same, before the first token."""
        return WindowedLayer(self.capacity, self.is_sliding)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) and return everything kept, (B, H, N + T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.requires_grad or self._keys.requires_grad:
            self.keys = torch.cat([self._kept(self._keys), key_states], dim=2)
            self.values = torch.cat([self._kept(self._values), value_states], dim=2)
            self.length = self._keys.shape[2]
            return self._keys, self._values
        kept = self.put(self.length, key_states, value_states)
        self.length += key_states.shape[2]
        return kept

    def put(self, start: int, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) into the columns from `start` on, and return all up to there, (B, H, start + T, D).

        The graph of what is written is kept, and not that of what was there.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states.detach(), value_states.detach())
        end = start + key_states.shape[2]
        if end > self._keys.shape[2]:
            self._grow(end)
        return _Put.apply(key_states, self._keys, start), _Put.apply(value_states, self._values, start)

    def past(self) -> tuple[Tensor, Tensor]:
        return self._kept(self._keys), self._kept(self._values)

    def keep_columns(self, columns: Tensor) -> None:
        """Drop all columns but these, as `LayerGroup.columns_to_keep` gives them."""
        if not self.is_initialized:
            return
        self.length = columns.shape[-1]
        for name in ("keys", "values"):
            old = getattr(self, name)
            if columns.ndim == 1 and not old.requires_grad:
                kept = self._room(old, self.length)
                torch.index_select(old, 2, columns, out=kept[:, :, : self.length])
            elif columns.ndim == 1:
                kept = old.index_select(2, columns)
            else:
                kept = old.gather(2, columns.clamp_min(0)[:, None, :, None].expand(-1, old.shape[1], -1, old.shape[3]))
                kept = kept if old.requires_grad else self._with_room(kept, self.length)
            setattr(self, name, kept)

    def rewrite(self, rows: Tensor, columns: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put keys and values (R, H, S, D) into the columns (R, S) of the batch rows (R,)."""
        for name, new in (("keys", keys), ("values", values)):
            old = getattr(self, name).clone()
            old[rows[:, None], :, columns] = new.transpose(1, 2)
            setattr(self, name, old)

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows`, which may repeat."""
        if self.is_initialized:
            self.keys, self.values = self._keys.index_select(0, rows), self._values.index_select(0, rows)

    def _grow(self, needed: int) -> None:
        self.keys = self._with_room(self._kept(self._keys), needed)
        self.values = self._with_room(self._kept(self._values), needed)

    def _with_room(self, kept: Tensor, needed: int) -> Tensor:
        """A buffer for `needed` tokens and as many more as there may be, which begins with `kept` (B, H, N, D)."""
        buffer = self._room(kept, needed)
        buffer[:, :, : kept.shape[2]] = kept
        return buffer

    def _room(self, like: Tensor, needed: int) -> Tensor:
        """The same, (B, H, size, D), with nothing in it."""
        size = max(needed, self.capacity or max(2 * needed, 256))
        return like.new_empty(*like.shape[:2], size, like.shape[3])

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor[:, :, : self.length]

    @property
    def _keys(self) -> Tensor:
        assert self.keys is not None
        return self.keys

    @property
    def _values(self) -> Tensor:
        assert self.values is not None
        return self.values

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.length = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class _Put(torch.autograd.Function):
    """`new` (B, H, T, D), written into a buffer from column `start` on: the buffer up to there, (B, H, start + T, D).

    The buffer carries no graph. Concatenating would copy the whole past at every layer.
    """

    @staticmethod
    def forward(ctx: Any, new: Tensor, buffer: Tensor, start: int) -> Tensor:
        ctx.start, end = start, start + new.shape[2]
        buffer[:, :, start:end] = new
        return buffer[:, :, :end]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[:, :, ctx.start :], None, None


class IndexedCache(Cache):
    """A cache that can say what the tokens of the present forward attend to."""

    layers: list[Any]  # WindowedLayer, ViewLayer or RingLayer: transformers' union of kinds knows none

    def __init__(self, layers: list[Any], groups: list[LayerGroup], group_of: list[int]) -> None:
        super().__init__(layers=layers)
        self.groups = groups
        self.group_of = group_of
        self.incoming: Tensor | None = None  # (B, T) indices of the tokens being forwarded
        self.padded = False
        self._asked = 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        # transformers asks for the sizes right before it builds the mask of the same layers.
        self._asked = layer_idx
        return super().get_mask_sizes(query_length, layer_idx)

    def attended(self) -> Attended:
        """What the incoming tokens see in the layers whose mask is being built."""
        group = self.groups[self.group_of[self._asked]]
        assert self.incoming is not None
        indices = self.incoming if group.indices is None else torch.cat([group.indices, self.incoming], dim=1)
        return Attended(self.incoming, indices, group.window, group.sinks, self.padded)


def layout(config: PreTrainedConfig, ttt: TTTConfig) -> tuple[list[WindowedLayer], list[LayerGroup], list[int]]:
    """One layer per decoder layer, their groups by reach, and the group of each layer."""
    types, arguments = get_layer_types_and_kwargs(config)
    unknown = sorted(set(types) - {*ATTENTION_TYPES, BORROWING})
    if unknown:
        raise UnsupportedModelError(
            f"Layers of type {unknown} keep a state that cannot be rolled back to the start of a chunk. "
            f"Only {list(ATTENTION_TYPES)} layers can be read with test-time training so far."
        )
    groups: list[LayerGroup] = []
    layers, group_of = [], []
    for kind, kwargs in zip(types, arguments):
        own = kwargs.get("sliding_window")
        # Layers with a window of their own were trained without sinks; ours matters only where it is smaller.
        if own is not None and (ttt.sliding_window is None or own <= ttt.sliding_window):
            group = LayerGroup(own, 0, room=ttt.chunk_size)
        else:
            sinks = ttt.sink_tokens if ttt.sliding_window is not None else 0
            group = LayerGroup(ttt.sliding_window, sinks, room=ttt.chunk_size)
        if group not in groups:
            groups.append(group)
        index = groups.index(group)
        group_of.append(index)
        layers.append(WindowedLayer(groups[index].capacity, is_sliding=kind != "full_attention"))
    return layers, groups, group_of
