"""A cache in memory that never moves: in the steady state a chunk, or a token, is a function of tensors alone.

Keys and values stand in a ring: sinks first, and every later token in the column that its index gives, over one that
nobody sees any more. So no shape changes and nothing is moved, and `torch.compile(fullgraph=True)` traces forward,
backward and step without a break. Reading does not use it yet: `reading.py` is the definition, and a test compares.
B batch rows, H key-value heads, N columns, T new tokens, C chunk, V vocabulary, D head dimension.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ..inner.context import FastTerms, ForwardContext, entering
from ..inner.fast_state import FastState
from ..inner.inner_loop import Stepped, update_
from ..inner.learning import (
    Decoder,
    Outer,
    applied_rows,
    gradients_of_chunk,
    losses_of,
    site_constants,
    starting_weights,
    terms_of,
)
from .cache import TTTCache
from .kv import IndexedCache, LayerGroup
from .window import Attended


class RingLayer(CacheLayerMixin):
    """Keys and values (B, H, N, D) of one layer, written in place."""

    def __init__(self, keys: Tensor, values: Tensor, is_sliding: bool) -> None:
        super().__init__()
        self.keys, self.values, self.is_sliding, self.is_initialized = keys, values, is_sliding, True
        self.columns: Tensor | None = None  # (T,) of the tokens of the present forward

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("A ring is made of a cache that has read.")

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write (B, H, T, D) and return all columns, (B, H, N, D), with the graph of what was written."""
        assert self.keys is not None and self.values is not None
        return self._written(self.keys, key_states), self._written(self.values, value_states)

    def _written(self, buffer: Tensor, new: Tensor) -> Tensor:
        assert self.columns is not None
        graph = buffer.index_copy(2, self.columns, new) if new.requires_grad else buffer
        buffer.index_copy_(2, self.columns, new.detach())
        return graph

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        assert self.keys is not None
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        return self.get_mask_sizes(0)[0]

    def get_max_length(self) -> int:
        return -1


class Ring(IndexedCache):
    """What a cache whose rows are in step, none of them padded, holds behind a full window.

    Its tensors are copies: nothing that is read here reaches the cache.
    """

    def __init__(self, cache: TTTCache) -> None:
        assert cache.rows is not None and cache.uniform and not cache.padded and cache.in_step
        read, waiting = cache.counts[0], cache.pending.lengths[0] if cache.pending else 0
        groups, layers = [], []
        for group in cache.groups:
            assert group.window is not None and group.indices is not None
            assert read - waiting >= group.sinks + group.window - 1
            kept = group.indices[0]
            recent = torch.arange(group.length, device=kept.device) >= group.length - (_size(group) - group.sinks)
            recent[: group.sinks] = True
            indices = group.indices.new_full((cache.rows, _size(group)), -1)
            indices[:, _columns(group, kept[recent])] = kept[recent]
            groups.append(replace(group, indices=indices))
        for layer, owner in zip(cache.layers, cache.group_of):
            group = cache.groups[owner]
            ring = groups[owner].indices
            assert group.indices is not None and ring is not None
            kept = group.indices[0]
            recent = torch.isin(kept, ring[0])
            columns = _columns(group, kept[recent])
            buffers = [past.new_zeros(*past.shape[:2], _size(group), past.shape[3]) for past in layer.past()]
            for buffer, past in zip(buffers, layer.past()):
                buffer[:, :, columns] = past[:, :, recent]
            layers.append(RingLayer(buffers[0], buffers[1], layer.is_sliding))
        super().__init__(layers, groups, cache.group_of)
        self.rows = cache.rows
        named = {name: tensor.clone() for name, tensor in cache.fast.tensors().items()}
        self.fast = FastState.from_tensors(named)

    def attended(self) -> Attended:
        group = self.groups[self.group_of[self._asked]]
        assert self.incoming is not None and group.indices is not None
        return Attended(self.incoming, group.indices, group.window, group.sinks, padded=True)

    def _begin(self, start: Tensor, width: int) -> None:
        """Announce the tokens with the indices from `start`, (), on."""
        incoming = start + torch.arange(width, device=start.device)
        self.incoming = incoming.expand(self.rows, width)
        columns = [_columns(group, incoming) for group in self.groups]
        for group, places in zip(self.groups, columns):
            assert group.indices is not None
            group.indices.index_copy_(1, places, self.incoming)
        for layer, owner in zip(self.layers, self.group_of):
            layer.columns = columns[owner]

    def read(self, decoder: Decoder, ids: Tensor, positions: Tensor, start: Tensor) -> Tensor:
        """Read tokens (B, T), of which nothing is learned yet, at these indices: their logits, (B, T, V)."""
        self._begin(start, ids.shape[1])
        weights = {name: state.weights for name, state in self.fast.sites.items()} or starting_weights(decoder)
        context = ForwardContext(FastTerms(weights, self.rows), attended=self.attended)
        with torch.no_grad(), entering(context):
            logits: Tensor = decoder.base_forward(
                input_ids=ids, position_ids=positions, past_key_values=self, use_cache=True
            ).logits
        return logits

    def learn(
        self, decoder: Decoder, ids: Tensor, positions: Tensor, start: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read a whole chunk, (B, C), and take its step. One that was read token by token is read once more.

        targets: (B, C - 1) bool. Returns the logits (B, C, V) and the losses (B,) of before the step.
        """
        assert self.fast.steps is not None
        outer = Outer()
        self._begin(start, ids.shape[1])
        terms = terms_of(decoder, self.fast, self.rows, outer)
        with torch.no_grad(), entering(ForwardContext(terms, attended=self.attended)):
            output = decoder.base_forward(input_ids=ids, position_ids=positions, past_key_values=self, use_cache=True)
        with torch.enable_grad():
            losses = losses_of(output.logits, ids, outer)
            firing = torch.ones(self.rows, dtype=torch.bool, device=ids.device)
            gradients, by_row = gradients_of_chunk(decoder, self.fast, terms, ids, losses, targets, firing, outer)
        with torch.no_grad():
            applied = applied_rows(decoder, by_row, gradients, firing)
            sites, of_sites = self.fast.sites, site_constants(decoder, gradients)
            step, skipped = (self.fast.steps + 1).float(), (~applied).float()
            update_(decoder.kind, sites, gradients, of_sites, decoder.ttt, step, skipped, Stepped.none_of(sites))
            self.fast.steps.add_(applied)
        return output.logits.detach(), by_row.detach()


def _size(group: LayerGroup) -> int:
    assert group.capacity is not None
    return group.capacity


def _columns(group: LayerGroup, indices: Tensor) -> Tensor:
    """The columns, (T,), of tokens with these indices, (T,)."""
    turn = (indices - group.sinks) % (_size(group) - group.sinks)
    return torch.where(indices < group.sinks, indices, group.sinks + turn)
