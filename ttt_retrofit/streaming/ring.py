"""Keys and values in memory that never moves: behind a full window a chunk, or a token, is a function of tensors alone.

They stand in a ring: sinks first, and every later token in the column that its index gives, over one that nobody sees
any more. So no shape changes and nothing is moved. A device can record what is done once and replay it (`captured.py`),
and `torch.compile(fullgraph=True)` traces forward, backward and step without a break.
What is written twice is the same: a chunk that was interrupted is read again over what it has left.
B batch rows, H key-value heads, N columns, T new tokens, C chunk, V vocabulary, D head dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ..inner.context import FastTerms, ForwardContext, entering
from ..inner.fast_state import FastState
from ..inner.fast_weights import Weights
from ..inner.learning import Decoder, Outer, inner_step, losses_of, terms_of
from .kv import IndexedCache, LayerGroup, WindowedLayer
from .outputs import drop_graph
from .window import Attended


class RingLayer(CacheLayerMixin):
    """Keys and values (B, H, N, D) of one layer, written in place; of one that borrows its keys there are none."""

    is_initialized = True

    def __init__(self, size: int, is_sliding: bool) -> None:
        super().__init__()
        self.size, self.is_sliding = size, is_sliding
        self.columns: Tensor | None = None  # (T,) of the tokens of the present forward

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("A ring is made of a cache that has read.")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) and return all columns, (B, H, N, D), with the graph of what was written."""
        assert self.keys is not None and self.values is not None
        return self._written(self.keys, key_states), self._written(self.values, value_states)

    def _written(self, buffer: Tensor, new: Tensor) -> Tensor:
        assert self.columns is not None
        written: Tensor = _Written.apply(new, buffer, self.columns)
        return written

    def select(self, rows: Tensor) -> RingLayer:
        selected = RingLayer(self.size, self.is_sliding)
        if self.keys is not None and self.values is not None:
            selected.keys, selected.values = self.keys.index_select(0, rows), self.values.index_select(0, rows)
        return selected

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.size, 0

    def get_seq_length(self) -> int:
        return self.size

    def get_max_length(self) -> int:
        return -1


class _Written(torch.autograd.Function):
    """`new` (B, H, T, D), written into the columns (T,) of a buffer: the buffer, (B, H, N, D), which has no graph."""

    @staticmethod
    def forward(ctx: Any, new: Tensor, buffer: Tensor, columns: Tensor) -> Tensor:
        ctx.save_for_backward(columns)
        return buffer.index_copy_(2, columns, new)[:]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (columns,) = ctx.saved_tensors
        return gradient.index_select(2, columns), None, None


class Ring(IndexedCache):
    """Keys and values of a conversation whose rows are in step, none of them padded, behind a full window."""

    def __init__(
        self,
        layers: Sequence[WindowedLayer],
        groups: Sequence[LayerGroup],
        group_of: list[int],
        read: int,
        waiting: int,
    ) -> None:
        """A copy of what later tokens see of `layers`, in which every row has read so many tokens.

        waiting : the last of them, which are read again.
        """
        assert can_hold(groups, read, waiting)
        kept = [group.columns_to_keep([read], [waiting], uniform=True) for group in groups]
        rings, places = [], []
        for group in groups:
            before = _indices(group)
            seen = _seen(group, read, waiting, before.device)
            places.append(_columns(group, seen))
            indices = before.new_full((len(before), _size(group)), -1)
            indices[:, places[-1]] = seen
            rings.append(replace(group, indices=indices))
        rolled = []
        for layer, owner in zip(layers, group_of):
            ring_layer = RingLayer(_size(groups[owner]), layer.is_sliding)
            if layer.is_initialized:
                ring_layer.keys, ring_layer.values = (
                    past.new_zeros(*past.shape[:2], ring_layer.size, past.shape[3]).index_copy_(
                        2, places[owner], past.index_select(2, kept[owner])
                    )
                    for past in layer.past()
                )
            rolled.append(ring_layer)
        super().__init__(rolled, rings, group_of)
        self.recordings: Any = None  # what `captured.py` keeps of what was done over these very tensors

    def unroll(self, layers: Sequence[WindowedLayer], groups: Sequence[LayerGroup], read: int, waiting: int) -> None:
        """Copy what later tokens see into empty layers and groups, when every row has read so many tokens."""
        places = []
        for group, ring in zip(groups, self.groups):
            rows = _indices(ring)
            seen = _seen(group, read, waiting, rows.device)
            group.indices = seen.repeat(len(rows), 1)
            places.append(_columns(group, seen))
        for layer, ring_layer, owner in zip(layers, self.layers, self.group_of):
            if ring_layer.keys is not None:
                layer.update(*(kept.index_select(2, places[owner]) for kept in (ring_layer.keys, ring_layer.values)))

    def select(self, rows: Tensor) -> Ring:
        """A copy of the batch rows `rows`, (R,), which may repeat."""
        selected = copy.copy(self)
        selected.layers, selected.recordings = [layer.select(rows) for layer in self.layers], None
        selected.groups = [replace(group, indices=_indices(group).index_select(0, rows)) for group in self.groups]
        return selected

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "recordings": None}

    @property
    def nbytes(self) -> int:
        """Of keys, values and indices."""
        kept = [tensor for layer in self.layers if layer.keys is not None for tensor in (layer.keys, layer.values)]
        return sum(tensor.nbytes for tensor in (*kept, *map(_indices, self.groups)))

    def attended(self) -> Attended:
        group = self.groups[self.group_of[self._asked]]
        assert self.incoming is not None
        return Attended(self.incoming, _indices(group), group.window, group.sinks, padded=True)

    def _begin(self, ids: Tensor, start: Tensor) -> None:
        """Announce the tokens (B, T) with the indices from `start`, (), on."""
        incoming = start + torch.arange(ids.shape[1], device=start.device)
        self.incoming = incoming.expand(ids.shape)
        columns = [_columns(group, incoming) for group in self.groups]
        for group, places in zip(self.groups, columns):
            _indices(group).index_copy_(1, places, self.incoming)
        for layer, owner in zip(self.layers, self.group_of):
            layer.columns = columns[owner]

    def read(
        self, decoder: Decoder, weights: dict[str, Weights], keep: int, ids: Tensor, positions: Tensor, start: Tensor
    ) -> Any:
        """Read tokens (B, T), of which nothing is learned yet, at these indices: the family's output.

        weights : as `weights_in_use` has them. keep : the last columns of logits to compute, 0 for all.
        """
        self._begin(ids, start)
        context = ForwardContext(FastTerms(weights, len(ids)), attended=self.attended)
        with torch.no_grad(), entering(context):
            return decoder.base_forward(
                input_ids=ids, position_ids=positions, past_key_values=self, use_cache=True, logits_to_keep=keep
            )

    def learn(
        self, decoder: Decoder, fast: FastState, ids: Tensor, positions: Tensor, start: Tensor, targets: Tensor
    ) -> tuple[Any, Tensor, FastState]:
        """Read a whole chunk, (B, C), and decide its step. One that was read token by token is read once more.

        targets: (B, C - 1) bool. Returns the family's output and the losses (B,) of before the step, and the state
        after it.
        """
        outer, rows = Outer(), len(ids)
        self._begin(ids, start)
        terms = terms_of(decoder, fast, rows, outer)
        with torch.no_grad(), entering(ForwardContext(terms, attended=self.attended)):
            output = decoder.base_forward(input_ids=ids, position_ids=positions, past_key_values=self, use_cache=True)
        with torch.enable_grad():
            losses = losses_of(output.logits, ids, outer)
            new, by_row = inner_step(decoder, fast, terms, ids, losses, targets, [True] * rows, outer)
        drop_graph(output)
        return output, by_row, new


def can_hold(groups: Sequence[LayerGroup], read: int, waiting: int) -> bool:
    """Whether every layer has a window, and the window is full: sinks are not in it."""
    return all(group.window is not None and read - waiting >= group.sinks + group.window - 1 for group in groups)


def _seen(group: LayerGroup, read: int, waiting: int, device: torch.device) -> Tensor:
    """The indices, (M,), of sinks and of what a token that is still to be read, or read again, sees."""
    assert group.window is not None
    recent = torch.arange(read - waiting - (group.window - 1), read, device=device)
    return torch.cat([torch.arange(group.sinks, device=device), recent])


def _indices(group: LayerGroup) -> Tensor:
    assert group.indices is not None
    return group.indices


def _size(group: LayerGroup) -> int:
    assert group.capacity is not None
    return group.capacity


def _columns(group: LayerGroup, indices: Tensor) -> Tensor:
    """The columns, (T,), of tokens with these indices, (T,)."""
    turn = (indices - group.sinks) % (_size(group) - group.sinks)
    return torch.where(indices < group.sinks, indices, group.sinks + turn)
