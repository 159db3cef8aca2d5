"""Dropping keys and values: the full cache of a context, what scores say of it, and the cache that is left.

L layers, H query heads, G key-value heads, N tokens of the context, M kept for each head, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from .watch import watched

# (attention module, queries (H, N, D), keys (G, N, D), values (G, N, D)) -> (G, N), large is worth keeping
Score = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Context:
    """A context read under full attention."""

    ids: Tensor  # (N,)
    cache: DynamicCache
    scores: dict[str, Tensor]  # (L, G, N) by the name of the method


@dataclass
class Kept:
    """A context of which little is left. Positions stay those of the context."""

    cache: DynamicCache
    position: int  # of the next token
    shown: list[Tensor] | None = None  # (G, M) bool by layer, where heads keep different numbers
    logits: Tensor | None = None  # (V,) of the next token, where the question has been read already

    @property
    def nbytes(self) -> int:
        """Of keys and values that are kept; where heads differ, padding is not counted."""
        total = 0
        for index, layer in enumerate(self.cache.layers):
            size = layer.keys.element_size() * layer.keys.shape[-1]
            kept = layer.keys[0, ..., 0].numel() if self.shown is None else int(self.shown[index].sum())
            total += 2 * size * kept
        return total


@torch.no_grad()
def read(model: Any, ids: Tensor, scores: dict[str, Score] | None = None) -> Context:
    """Read (N,) ids in one forward, and score every key on the way."""
    found: dict[str, list[Tensor]] = {name: [] for name in scores or {}}

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor) -> None:
        for name, score in (scores or {}).items():
            found[name].append(score(module, query, key, value))

    cache = DynamicCache(config=model.config)
    with watched(model, watch):
        model(input_ids=ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Context(ids, cache, {name: torch.stack(layers) for name, layers in found.items()})


def keep_top(context: Context, scores: Tensor, kept: int, sinks: int = 0, recent: int = 0) -> Kept:
    """Each head keeps its `kept` best keys, the first `sinks` and the last `recent` always among them."""
    scores = _always(scores, sinks, recent)
    index = scores.topk(min(kept, scores.shape[-1]), dim=-1).indices.sort(-1).values  # (L, G, M)
    return Kept(gathered(context.cache, index), len(context.ids))


def keep_top_of_all(context: Context, scores: Tensor, kept: int, sinks: int = 0) -> Kept:
    """All heads of all layers share one budget of `kept` keys each, so that some keep more and some fewer."""
    scores = _always(scores, sinks, 0)
    layers, heads, tokens = scores.shape
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    chosen[scores.flatten().topk(min(kept, tokens) * layers * heads).indices] = True
    chosen = chosen.view(scores.shape)
    widest = int(chosen.sum(-1).max())  # all layers are padded to one length, which the model's mask has
    index = chosen.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., :widest]  # kept ones first
    shown = list(chosen.gather(-1, index))
    return Kept(gathered(context.cache, index), len(context.ids), shown)


def keep_tokens(context: Context, index: Tensor) -> Kept:
    """All heads keep the same tokens, (M,)."""
    heads = context.cache.layers[0].keys.shape[1]
    return Kept(gathered(context.cache, index.expand(len(context.cache.layers), heads, -1)), len(context.ids))


def gathered(cache: DynamicCache, index: Tensor | Sequence[Tensor]) -> DynamicCache:
    """A new cache of the keys and values at `index`: (G, M) for each layer."""
    smaller = DynamicCache()
    for number, (layer, chosen) in enumerate(zip(cache.layers, index)):
        wide = chosen[None, :, :, None].expand(-1, -1, -1, layer.keys.shape[-1])
        smaller.update(layer.keys.gather(2, wide), layer.values.gather(2, wide), number)
    return smaller


def whole(context: Context) -> Kept:
    """Nothing dropped: a copy, since answering appends to it."""
    copy = DynamicCache()
    for number, layer in enumerate(context.cache.layers):
        copy.update(layer.keys, layer.values, number)
    return Kept(copy, len(context.ids))


def _always(scores: Tensor, sinks: int, recent: int) -> Tensor:
    scores = scores.float().clone()
    scores[..., :sinks] = torch.inf
    if recent:
        scores[..., -recent:] = torch.inf
    return scores
