"""Which keys a question looks at, for systems that choose what to keep once it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from .attention import by_group, weights
from .evict import Context, Kept, whole
from .snapkv import POOL
from .watch import watched


def asked_score(name: str, module: Any, query: Tensor, key: Tensor) -> Tensor:
    """(G, N) what the question's own tokens look at, as each method ("snapkv", "h2o", "tova") adds it up."""
    weight = weights(query, key, module.scaling)  # (H, Q, N)
    if name == "tova":
        return weight[:, -1].mean(0).expand(key.shape[0], -1)
    looked = weight.sum(1)  # of H2O, as over the context, so that both can be added
    if name == "snapkv":
        looked = avg_pool1d(looked / weight.shape[1], POOL, stride=1, padding=POOL // 2)
    return by_group(looked, key.shape[0]).mean(1)


@dataclass
class Looked:
    """A question that was read behind a whole context. L layers, G key-value heads, N tokens, Q of the question."""

    scores: dict[str, Tensor]  # (L, G, N) by method, of the context's keys
    own: list[tuple[Tensor, Tensor]]  # its keys and values, (1, G, Q, D) each, by layer
    logits: Tensor  # (V,) of the next token
    position: int  # of the next token

    def behind(self, kept: Kept) -> Kept:
        """The question behind what was kept of its context; it was read with everything in view."""
        for number, (keys, values) in enumerate(self.own):
            kept.cache.update(keys, values, number)
        return replace(kept, position=self.position, logits=self.logits)


@torch.no_grad()
def look(model: Any, context: Context, question: Sequence[int], methods: Sequence[str]) -> Looked:
    """Read a question behind a context, and score the context's keys by several methods."""
    cache, tokens = whole(context).cache, len(context.ids)
    found: dict[str, list[Tensor]] = {name: [] for name in methods}

    def watch(module: Any, query: Tensor, key: Tensor, value: Tensor) -> None:
        for name, by_layer in found.items():
            by_layer.append(asked_score(name, module, query, key)[:, :tokens])

    position = tokens + len(question)
    with watched(model, watch):
        logits = model(
            input_ids=torch.tensor([list(question)], device=model.device), past_key_values=cache, use_cache=True,
            position_ids=torch.arange(tokens, position, device=model.device)[None], logits_to_keep=1,
        ).logits[0, -1]  # fmt: skip
    scores = {name: torch.stack(layers) for name, layers in found.items()}
    scores["h2o"] += context.scores["h2o"]  # which adds up over all that was read, question and context
    own = [(layer.keys[:, :, tokens:].clone(), layer.values[:, :, tokens:].clone()) for layer in cache.layers]
    return Looked(scores, own, logits, position)
