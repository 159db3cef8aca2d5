"""SnapKV (Li et al. 2024, arXiv 2404.14469): what the last tokens look at, pooled over neighbours."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from .attention import by_group, weights

OBSERVERS = 64  # the last tokens, whose attention is taken
POOL = 5


def snapkv(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(G, N); the observers themselves are always kept."""
    observed = weights(query[:, -OBSERVERS:], key, module.scaling)[..., :-OBSERVERS].mean(1)  # (H, N - observers)
    pooled = avg_pool1d(observed, POOL, stride=1, padding=POOL // 2)
    return pad(by_group(pooled, key.shape[0]).mean(1), (0, OBSERVERS), value=float("inf"))
