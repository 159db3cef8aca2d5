"""Attention weights that scores are made of. H query heads, G key-value heads, Q queries, K keys, D head dimension."""

from __future__ import annotations

import torch
from torch import Tensor


def weights(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Causal attention weights of the last Q positions: (H, Q, D), (G, K, D) -> (H, Q, K) float32."""
    groups = query.shape[0] // key.shape[0]
    scores = (query @ key.repeat_interleave(groups, 0).mT).float() * scaling
    queries, keys = scores.shape[1:]
    seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1)


def by_group(values: Tensor, heads: int) -> Tensor:
    """(H, ...) -> (G, H / G, ...)."""
    return values.unflatten(0, (heads, -1))
