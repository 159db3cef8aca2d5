"""Quest (Tang et al. 2024, arXiv 2406.10774): every token reads only the pages of keys that may matter to it.

A page's score is the most that any key between its least and largest could give. All keys and values stay: reads are
saved, not memory. H query heads, G key-value heads, K keys, P pages, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import by_group
from .watch import Watch

PAGE = 16  # tokens
DENSE = 2  # first layers, which read everything


def quest(budget: int) -> Watch:
    """Reads `budget` keys for each token of one-token forwards, the last page among them.

    The paper chooses for each query head; heads that share keys choose together here, by their largest score.
    """

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
        pages = (key.shape[1] - 1) // PAGE  # to choose from; the last one, full or not, holds the query's own token
        if query.shape[1] > 1 or module.layer_idx < DENSE or key.shape[1] <= budget:
            return None
        full = key[:, : pages * PAGE].unflatten(1, (pages, PAGE))
        least, largest = full.amin(2), full.amax(2)  # (G, P, D)
        grouped = by_group(query[:, 0], key.shape[0])[:, :, None]  # (G, H / G, 1, D)
        bound = torch.maximum(grouped * least[:, None], grouped * largest[:, None]).sum(-1).amax(1)  # (G, P)
        tail = key.shape[1] - pages * PAGE
        best = bound.topk(max(min((budget - tail) // PAGE, pages), 1), -1).indices
        chosen = torch.zeros_like(bound, dtype=torch.bool).scatter_(1, best, True).repeat_interleave(PAGE, 1)
        return torch.cat([chosen, chosen.new_ones(key.shape[0], tail)], 1)[:, None]

    return watch
