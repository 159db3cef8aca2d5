"""Joins caches: conversations that were read apart go on together, each exactly where it stood.

Rows are told apart by indices and counts alone, so what is missing in one of them is filled up with columns that no
token sees. It knows of a model only what fresh fast weights look like.
B rows of all caches together, N kept columns of the longest, C chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..inner.fast_state import FastState
from ..inner.learning import Decoder, Outer, fresh
from ..memory.gates import GateState
from .cache import TTTCache
from .state import Pending, Sinks


@torch.no_grad()
def join(decoder: Decoder, into: TTTCache, caches: Sequence[TTTCache]) -> TTTCache:
    """Fill the empty cache `into` with the rows of all `caches`, in their order. Each has been read into.

    The columns that `generate` counts become those of the longest row; a shorter one is taken to be padded before it.
    """
    with torch.inference_mode(False):
        for index, group in enumerate(into.groups):
            longest = max(cache.groups[index].length for cache in caches)
            group.indices = torch.cat([_filled(cache.groups[index].indices, 1, longest, -1) for cache in caches])
        for layer, group_index in zip(range(len(into.layers)), into.group_of):
            _join_layer(into, layer, into.groups[group_index].length, caches)
        into.next_index = torch.cat([_there(cache.next_index) for cache in caches])
        into.counts = [count for cache in caches for count in cache.counts]
        into.start_logs([losses for cache in caches for losses in cache.losses])
        digests = [cache.digest for cache in caches if cache.digest is not None]
        into.digest = torch.cat(digests) if len(digests) == len(caches) else None
        into.recount(max(into.counts))
        into.uniform, into.padded = False, True
        sinks = [cache.sinks for cache in caches if cache.sinks is not None]
        into.sinks = Sinks(torch.cat([s.ids for s in sinks]), [anchor for s in sinks for anchor in s.anchors])
        into.gate_state = GateState.join([(_gate_state(cache), len(cache.counts)) for cache in caches])
        into.pending = _join_pending(caches)
        into.fast = _join_fast(decoder, caches)
        return into


def stay(cache: TTTCache, rows: Sequence[int], memories: int) -> None:
    """Keep these rows; the others have ended. memories: entries of the longest memory among those who stay."""
    assert cache.next_index is not None
    cache.batch_select_indices(torch.tensor(rows, device=cache.next_index.device))
    cache.recount(max(cache.counts))
    cache.turn = None  # of joined rows nobody waits for another turn
    for part in (cache, cache.pending):
        if part is not None and part.gate_state is not None:
            part.gate_state = part.gate_state.resized(memories)


def _gate_state(part: TTTCache | Pending | None) -> GateState | None:
    state = None if part is None else part.gate_state
    assert state is None or isinstance(state, GateState)
    return state


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "The cache has read nothing."
    return tensor


def _filled(tensor: Tensor | None, dim: int, length: int, value: float) -> Tensor:
    """The tensor, made longer at its end in one dimension."""
    tensor = _there(tensor)
    more = [0, 0] * (tensor.ndim - 1 - dim) + [0, length - tensor.shape[dim]]
    return F.pad(tensor, more, value=value)


def _join_layer(into: TTTCache, index: int, length: int, caches: Sequence[TTTCache]) -> None:
    pasts = [cache.layers[index].past() for cache in caches if cache.layers[index].is_initialized]
    if pasts:  # a layer that borrows its keys has none
        into.layers[index].update(*(torch.cat([_filled(t, 2, length, 0.0) for t in kind]) for kind in zip(*pasts)))


def _join_pending(caches: Sequence[TTTCache]) -> Pending | None:
    known = [cache.pending for cache in caches if cache.pending is not None]
    if not known:
        return None
    size = known[0].ids.shape[1]

    def part(name: str) -> Tensor:
        blank: Tensor = getattr(known[0], name)
        return torch.cat([
            blank.new_zeros(len(cache.counts), size) if cache.pending is None else getattr(cache.pending, name)
            for cache in caches
        ])  # fmt: skip

    def counted(name: str) -> list[int]:
        each = [[0] * len(cache.counts) if cache.pending is None else getattr(cache.pending, name) for cache in caches]
        return [count for counts in each for count in counts]

    state = GateState.join([(_gate_state(cache.pending), len(cache.counts)) for cache in caches])
    tensors = part("ids"), part("positions"), part("learned")
    return Pending(*tensors, counted("lengths"), counted("targets"), state)


def _join_fast(decoder: Decoder, caches: Sequence[TTTCache]) -> FastState:
    if not any(cache.fast.sites for cache in caches):
        return FastState()
    states = [
        (cache.fast if cache.fast.sites else fresh(decoder, len(cache.counts), Outer())).tensors() for cache in caches
    ]
    return FastState.from_tensors({name: torch.cat([state[name] for state in states]) for name in states[0]})
