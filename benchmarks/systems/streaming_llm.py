"""StreamingLLM (Xiao et al. 2023, arXiv 2309.17453): a window and the first tokens, with positions as read or as kept.

Within the window re-anchoring changes nothing, for rotary attention sees distances only. So it comes down to where the
sinks seem to be: as far behind as they were read, or right before the window, as the paper numbers what it keeps.
They are moved once for each part of `PART` tokens. N tokens, M kept, W window, S sinks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .evict import Kept
from .rotation import rotated

PART = 128  # tokens of a forward


@torch.no_grad()
def streaming_llm(model: Any, ids: Tensor, window: int, sinks: int, anchored: bool) -> Kept:
    """Read (N,) ids, each token seeing the W - 1 before it and the sinks. W - 1 + S tokens are left."""
    cache, seen = DynamicCache(), torch.zeros(0, dtype=torch.long)  # seen: (M,) the positions of what is in the cache
    behind = 0  # positions that the sinks have been moved on by
    for first in range(0, len(ids), PART):
        part = ids[first : first + PART]
        positions = torch.arange(first, first + len(part))
        if anchored and len(seen) and seen[sinks:].numel():
            target = int(seen[sinks]) - sinks
            _move(model, cache, sinks, target - behind)
            behind = target
        keys = torch.cat([seen, positions])
        shown = (keys[None] <= positions[:, None]) & ((positions[:, None] - keys[None] < window) | (keys[None] < sinks))
        mask = torch.zeros(shown.shape, dtype=model.dtype).masked_fill(~shown, torch.finfo(model.dtype).min)
        model(
            input_ids=part[None], position_ids=positions[None], attention_mask=mask[None, None],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        stays = ((keys >= first + len(part) - (window - 1)) | (keys < sinks)).nonzero()[:, 0]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, stays], layer.values[:, :, stays]
        seen = keys[stays]
    return Kept(cache, len(ids))


def _move(model: Any, cache: DynamicCache, sinks: int, by: int) -> None:
    """Turn the keys of the sinks on by that many positions; their values say nothing of positions."""
    if by:
        for layer in cache.layers:
            moved = rotated(layer.keys[:, :, :sinks], model.model.rotary_emb, torch.full((sinks,), by))
            layer.keys = torch.cat([moved, layer.keys[:, :, sinks:]], 2)
