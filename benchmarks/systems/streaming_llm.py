"""StreamingLLM (Xiao et al. 2023, arXiv 2309.17453): a window and the first tokens, with positions as read or as kept.

Within the window re-anchoring changes nothing, for rotary attention sees distances only. So it comes down to where the
sinks seem to be: as far behind as they were read, or right before the window, as the paper numbers what it keeps.
They are moved after each part of `PART` tokens, the last one too. N tokens, M kept, W window, S sinks.
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
    cache, seen = DynamicCache(), ids[:0]  # seen: (M,) the positions of what is in the cache
    as_read: list[Tensor] = []  # by layer, the keys of the sinks; every move starts from them, so that no error grows
    for first in range(0, len(ids), PART):
        part = ids[first : first + PART]
        positions = torch.arange(first, first + len(part), device=ids.device)
        keys = torch.cat([seen, positions])
        shown = (keys[None] <= positions[:, None]) & ((positions[:, None] - keys[None] < window) | (keys[None] < sinks))
        mask = torch.zeros_like(shown, dtype=model.dtype).masked_fill(~shown, torch.finfo(model.dtype).min)
        model(
            input_ids=part[None], position_ids=positions[None], attention_mask=mask[None, None],
            past_key_values=cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        stays = ((keys >= first + len(part) - (window - 1)) | (keys < sinks)).nonzero()[:, 0]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, stays], layer.values[:, :, stays]
        seen = keys[stays]
        as_read = as_read or [layer.keys[:, :, :sinks] for layer in cache.layers]
        if anchored and len(seen) > sinks:
            _move(model, cache, as_read, int(seen[sinks]) - sinks)
    return Kept(cache, len(ids))


def _move(model: Any, cache: DynamicCache, as_read: list[Tensor], by: int) -> None:
    """Turn the keys of the sinks, (1, G, S, D), on by that many positions; their values say nothing of positions."""
    for layer, keys in zip(cache.layers, as_read):
        sinks = keys.shape[2]
        moved = rotated(keys, model.model.rotary_emb, torch.full((sinks,), by, device=keys.device))
        layer.keys = torch.cat([moved, layer.keys[:, :, sinks:]], 2)
