"""Keeps attention sinks within the distance that the model was trained for.

The window moves on while the sinks stay at the start, until they are further behind than any two tokens ever were in
training; rotary attention then fails (`docs/research-log/window.md`). Sinks see only each other, so their keys
at any other position are one forward of a few tokens away: before a chunk that would leave them too far behind, they
are read again at positions right before the window, as StreamingLLM (arXiv 2309.17453, section 3.2) numbers tokens
within its cache. It happens at indices that do not depend on how tokens were split into calls.
B batch rows, M rows to move, S sinks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..inner.context import FastTerms, ForwardContext, entering
from ..inner.learning import Decoder
from ..util.devices import on_device
from .cache import TTTCache
from .kv import IndexedCache
from .views import ViewLayer


def note_ids(cache: TTTCache, ids: Tensor, taken: list[int]) -> None:
    """Note the ids of sinks among the tokens (B, T) that are read next, `taken` by row."""
    assert cache.sinks is not None
    size = cache.sinks.ids.shape[1]
    for row, (count, take) in enumerate(zip(cache.counts, taken)):
        new = min(size - count, take)
        if new > 0:
            cache.sinks.ids[row, count : count + new] = ids[row, :new]


def rows_to_move(
    cache: TTTCache, trained_length: int | None, waiting: list[int], taken: list[int], learn: bool
) -> list[int]:
    """The rows, of those with tokens to read, whose next chunk would end further from their sinks than they may be."""
    window, chunk, sinks = cache.ttt.sliding_window, cache.ttt.chunk_size, cache.sinks
    if trained_length is None or window is None or sinks is None or not cache.ttt.sink_tokens:
        return []
    if window + chunk + cache.ttt.sink_tokens >= trained_length:
        return []  # no place is nearer
    # Only where a chunk starts: within one, the sinks must stay, for it may have to be read again.
    starts = [
        take > 0 and not wait and (learn or count % chunk == 0)
        for wait, take, count in zip(waiting, taken, cache.counts)
    ]
    return [
        row
        for row, (start, count, anchor) in enumerate(zip(starts, cache.counts, sinks.anchors))
        if start and count + chunk - anchor > trained_length
    ]


def move(decoder: Decoder, cache: TTTCache, rows: list[int], shift: Tensor | None, fast: FastTerms) -> None:
    """Read the sinks of `rows` again, right before their windows, and put their keys and values in place.

    Parameters
    ----------
    shift : (B,) position minus index of the next token, or None where they are the same.
    fast : the fast weights that the sinks were first read with.
    """
    sinks, window = cache.sinks, cache.ttt.sliding_window
    assert sinks is not None and window is not None
    size = sinks.ids.shape[1]
    for row in rows:
        sinks.anchors[row] = cache.counts[row] - (window - 1) - size
    index = on_device(rows, sinks.ids.device)
    first = on_device([sinks.anchors[row] for row in rows], sinks.ids.device)
    if shift is not None:
        first = first + shift[index]
    offsets = torch.arange(size, device=sinks.ids.device)
    view = IndexedCache(
        [ViewLayer(None, layer.is_sliding) for layer in cache.layers],
        [group.empty() for group in cache.groups],
        cache.group_of,
    )
    view.incoming = offsets.expand(len(rows), size)
    with entering(ForwardContext(fast, attended=view.attended)):
        decoder.base_forward(
            input_ids=sinks.ids[index],
            position_ids=first[:, None] + offsets,
            past_key_values=view,
            use_cache=True,
            logits_to_keep=1,
        )
    for layer, added, owner in zip(cache.layers, view.layers, cache.group_of):
        group = cache.groups[owner]
        if group.sinks and added.keys is not None:
            assert group.indices is not None
            columns = (group.indices[index][:, None, :] == offsets[:, None]).to(torch.uint8).argmax(-1)  # (M, S)
            layer.rewrite(index, columns, added.keys, added.values)
