"""The past as one forward that is learned from sees it, and what of that forward the cache takes over.

B batch rows, R rows to read again, H key-value heads, N kept tokens, T new tokens, D head dimension.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ..util.devices import on_device
from .cache import TTTCache
from .kv import IndexedCache, WindowedLayer


class ViewLayer(CacheLayerMixin):
    """The past of one layer, read-only, and what one forward adds to it; a layer that borrows its keys adds nothing."""

    def __init__(self, past: tuple[Tensor, Tensor] | None, is_sliding: bool) -> None:
        super().__init__()
        self.past = past
        self.is_sliding = is_sliding

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # Assigning, not appending: a recomputation under activation checkpointing must find the same past.
        self.keys, self.values = key_states, value_states
        if self.past is None:
            return key_states, value_states
        keys, values = self.past
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def copy_past(self) -> None:
        """The cache overwrites its buffers; a recomputation must find what they hold now."""
        if self.past is not None:
            keys, values = self.past
            self.past = (keys, values) if keys.requires_grad else (keys.clone(), values.clone())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (0 if self.past is None else self.past[0].shape[2]) + query_length, 0

    def get_seq_length(self) -> int:
        return self.get_mask_sizes(0)[0]

    def get_max_length(self) -> int:
        return -1


class AppendingLayer(ViewLayer):
    """Likewise, where no gradient goes through the past: what is added is written behind it, in its buffer."""

    def __init__(self, layer: WindowedLayer) -> None:
        super().__init__(None, layer.is_sliding)
        self.layer, self.start = layer, layer.length

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys, self.values = key_states, value_states
        return self.layer.put(self.start, key_states, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.start + query_length, 0


def view_of(cache: TTTCache, with_graph: bool) -> IndexedCache:
    """A look at the present past, for a forward that is learned from.

    with_graph: gradients go through the past. Otherwise keys and values are written into the buffers, at once.
    """
    layers: list[ViewLayer] = [
        ViewLayer(layer.past() if layer.is_initialized else None, layer.is_sliding)
        if with_graph
        else AppendingLayer(layer)
        for layer in cache.layers
    ]
    # Copies of the groups: a recomputation, later, must find the indices of now.
    view = IndexedCache(layers, [replace(group) for group in cache.groups], cache.group_of)
    view.incoming, view.padded = cache.incoming, cache.padded
    return view


def view_before_pending(cache: TTTCache, rows: list[int]) -> IndexedCache:
    """The past of `rows` as it was before their unfinished chunk, to read that chunk again."""
    assert cache.next_index is not None and cache.pending is not None
    device = cache.next_index.device
    chosen = None if len(rows) == cache.rows else on_device(rows, device)

    def of_rows(tensor: Tensor) -> Tensor:
        return tensor if chosen is None else tensor.index_select(0, chosen)

    size = cache.pending.ids.shape[1]
    assert all(cache.pending.lengths[row] == size for row in rows)
    start = of_rows(cache.next_index) - size
    groups = []
    for group in cache.groups:
        assert group.indices is not None
        indices = of_rows(group.indices)
        groups.append(replace(group, indices=indices.masked_fill(indices >= start[:, None], -1)))
    layers = []
    for layer in cache.layers:
        past = None
        if layer.is_initialized:
            keys, values = layer.past()
            past = of_rows(keys), of_rows(values)
        layers.append(ViewLayer(past, layer.is_sliding))
    view = IndexedCache(layers, groups, cache.group_of)
    chunk = torch.arange(size, device=device)
    view.incoming, view.padded = start[:, None] + chunk, True
    return view


def absorb(cache: TTTCache, view: IndexedCache, with_graph: bool) -> None:
    """Take over the keys and values that a forward through `view` added."""
    for layer, added in zip(cache.layers, view.layers):
        keys, values = added.keys, added.values
        if keys is not None and isinstance(added, AppendingLayer):
            layer.length += keys.shape[2]
        elif keys is not None:
            layer.update(*((keys, values) if with_graph else (keys.detach(), values.detach())))
