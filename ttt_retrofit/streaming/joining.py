"""Joins caches: conversations that were read apart go on together, each exactly where it stood.

Rows are told apart by ranks and counts alone, so what is missing in one of them is filled up with columns that no token
sees. It knows of a model only what fresh fast weights look like.
B rows of all caches together, N kept columns of the longest, C chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..inner.fast_state import FastState
from ..inner.learning import Decoder, Outer, fresh
from ..memory.gates import Topic
from .cache import TTTCache
from .state import Pending, Sinks


@torch.no_grad()
def join(decoder: Decoder, into: TTTCache, caches: Sequence[TTTCache]) -> TTTCache:
    """Fill the empty cache `into` with the rows of all `caches`, in their order. Each has been read into.

    The columns that `generate` counts become those of the longest row; a shorter one is taken to be padded before it.
    """
    with torch.inference_mode(False):
        for index, track in enumerate(into.tracks):
            longest = max(cache.tracks[index].length for cache in caches)
            track.ranks = torch.cat([_filled(cache.tracks[index].ranks, 1, longest, -1) for cache in caches])
        for layer, track_index in zip(range(len(into.layers)), into.track_of):
            _join_layer(into, layer, into.tracks[track_index].length, caches)
        into.ranks_seen = torch.cat([_there(cache.ranks_seen) for cache in caches])
        into.counts = [count for cache in caches for count in cache.counts]
        into.start_logs([losses for cache in caches for losses in cache.losses])
        digests = [cache.digest for cache in caches if cache.digest is not None]
        into.digest = torch.cat(digests) if len(digests) == len(caches) else None
        into.recount(max(into.counts))
        into.uniform, into.padded = False, True
        sinks = [cache.sinks for cache in caches if cache.sinks is not None]
        into.sinks = Sinks(torch.cat([s.ids for s in sinks]), [anchor for s in sinks for anchor in s.anchors])
        into.topic = _join_topics([(cache.topic, len(cache.counts)) for cache in caches])
        into.pending = _join_pending(caches)
        into.fast = _join_fast(decoder, caches)
        return into


def stay(cache: TTTCache, rows: Sequence[int], memories: int) -> None:
    """Keep these rows; the others have ended. memories: entries of the longest memory among those who stay."""
    assert cache.ranks_seen is not None
    cache.batch_select_indices(torch.tensor(rows, device=cache.ranks_seen.device))
    cache.recount(max(cache.counts))
    if cache.topic is not None:
        cache.topic = _among(cache.topic, memories)
    if cache.pending is not None and cache.pending.topic is not None:
        cache.pending.topic = _among(cache.pending.topic, memories)


def _among(topic: Topic, memories: int) -> Topic:
    """The same where the longest memory of the batch is another one: each row's own entries come first."""
    near = topic.near[:, :memories]
    return replace(topic, near=F.pad(near, [0, memories - near.shape[1]]))


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


def _join_topics(topics: Sequence[tuple[Topic | None, int]]) -> Topic | None:
    """topics: with the rows each is of; None where no memory has listened."""
    known = [topic for topic, _ in topics if topic is not None]
    if not known:
        return None
    memories = max(topic.near.shape[1] for topic in known)
    blank = known[0].sums
    parts = [
        _among(Topic.fresh(blank.new_zeros(rows, blank.shape[1])) if topic is None else topic, memories).tensors()
        for topic, rows in topics
    ]
    return Topic(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


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

    lengths = [
        length
        for cache in caches
        for length in (cache.pending.lengths if cache.pending is not None else [0] * len(cache.counts))
    ]
    topic = _join_topics([(None if c.pending is None else c.pending.topic, len(c.counts)) for c in caches])
    return Pending(part("ids"), part("positions"), part("learned"), lengths, topic)


def _join_fast(decoder: Decoder, caches: Sequence[TTTCache]) -> FastState:
    if not any(cache.fast.sites for cache in caches):
        return FastState()
    states = [
        (cache.fast if cache.fast.sites else fresh(decoder, len(cache.counts), Outer())).tensors() for cache in caches
    ]
    return FastState.from_tensors({name: torch.cat([state[name] for state in states]) for name in states[0]})
