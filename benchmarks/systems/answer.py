"""Greedy answers from what was kept of a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .evict import Kept
from .watch import Watch, watched


def shows_padding(kept: Kept) -> Watch | None:
    """Hides the padding of heads that keep fewer keys than others of their layer."""
    if kept.shown is None:
        return None
    shown = kept.shown

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        own = shown[module.layer_idx]
        new = own.new_ones(own.shape[0], key.shape[1] - own.shape[1])
        return torch.cat([own, new], 1)[:, None]  # (G, 1, K)

    return watch


@torch.no_grad()
def greedy(
    model: Any,
    kept: Kept,
    question: Sequence[int],
    limit: int,
    ends: set[int],
    stop: Callable[[list[int]], bool] = lambda ids: False,
    watch: Watch | None = None,
    one_by_one: bool = False,
) -> list[int]:
    """Read the question behind what was kept and write up to `limit` tokens. `kept.cache` grows by what is read.

    Parameters
    ----------
    one_by_one : read the question token by token, for attention that chooses keys anew for each.
    stop : asked after each token.
    """
    watch = watch or shows_padding(kept)
    position = kept.position
    written: list[int] = []
    steps = [[token] for token in question] if one_by_one else [list(question)]
    logits = kept.logits
    with nullcontext() if watch is None else watched(model, watch):
        if logits is None:
            for step in steps:
                logits = _forward(model, kept, step, position)
                position += len(step)
        while len(written) < limit:
            assert logits is not None
            token = int(logits.argmax())
            if token in ends:
                break
            written.append(token)
            if stop(written) or len(written) == limit:
                break
            logits = _forward(model, kept, [token], position)
            position += 1
    return written


def _forward(model: Any, kept: Kept, ids: Sequence[int], position: int) -> Tensor:
    out = model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=torch.arange(position, position + len(ids), device=model.device)[None],
        past_key_values=kept.cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return out.logits[0, -1]
