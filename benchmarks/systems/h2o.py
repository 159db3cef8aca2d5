"""H2O (Zhang et al. 2023, arXiv 2306.14048): the keys that got most attention so far, beside the most recent ones.

Attention is accumulated over the whole context; the paper evicts while it goes, which loses a little more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import by_group, weights

TILE = 256  # queries whose attention is held at once


def h2o(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(G, N) attention each key got from all queries that saw it, summed."""
    tokens = query.shape[1]
    total = key.new_zeros(query.shape[0], key.shape[1], dtype=torch.float32)
    before = key.shape[1] - tokens
    for first in range(0, tokens, TILE):
        last = min(first + TILE, tokens)
        total[:, : before + last] += weights(query[:, first:last], key[:, : before + last], module.scaling).sum(1)
    return by_group(total, key.shape[0]).mean(1)
