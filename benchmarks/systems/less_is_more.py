"""LessIsMore (Yang et al. 2025, arXiv 2508.07101): all heads of many layers read the same few tokens.

At a selection layer every head ranks the keys; the ranks are merged over heads in order, the first `K (1 - R)` tokens
are kept and the most recent `K R` put beside them. Layers up to the next selection layer reuse the choice. All keys and
values stay. H query heads, K budget, R share of recent tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention import weights
from .watch import Watch

RECENT = 0.25
DENSE = 2  # first layers, which read everything
SELECTIONS = 2  # selection layers: the first sparse one, and the one in the middle of the network


def less_is_more(budget: int, layers: int) -> Watch:
    """Reads `budget` keys for each token of one-token forwards. A selection layer itself reads everything."""
    selecting = {DENSE + number * (layers - DENSE) // SELECTIONS for number in range(SELECTIONS)}
    recent = int(budget * RECENT)
    chosen: dict[str, Tensor] = {}

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
        keys = key.shape[1]
        if query.shape[1] > 1 or module.layer_idx < DENSE or keys <= budget:
            return None
        if module.layer_idx in selecting:
            chosen["tokens"] = select(weights(query, key, module.scaling)[:, 0], budget - recent, recent)
            return None
        return chosen["tokens"].expand(key.shape[0], 1, -1)

    return watch


def select(weight: Tensor, best: int, recent: int) -> Tensor:
    """(H, K) attention -> (K,) bool: the union over heads in order of rank, cut at `best`, and the last `recent`."""
    keys = weight.shape[1]
    older = keys - recent
    ranked = weight[:, :older].topk(min(best, older), -1).indices.T.flatten().tolist()  # all heads' first, then second
    first = list(dict.fromkeys(ranked))[:best]
    chosen = torch.zeros(keys, dtype=torch.bool, device=weight.device)
    chosen[first] = True
    chosen[older:] = True
    return chosen
