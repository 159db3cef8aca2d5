"""Sees what goes into the attention of a plain model, and may narrow what each key-value head looks at.

H query heads, G key-value heads, Q queries, K keys, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "watched_sdpa"

# (attention module, queries (H, Q, D), keys (G, K, D), values (G, K, D)), rotated as they meet; returns None, or which
# keys may be looked at, bool, (G, Q or 1, K).
Watch = Callable[[Any, Tensor, Tensor, Tensor], Tensor | None]
_WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(model: Any, watch: Watch) -> Iterator[None]:
    """Forwards of `model` inside the block tell `watch` what each attention layer is given."""
    before, token = model.config._attn_implementation, _WATCH.set(watch)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        _WATCH.reset(token)


def watched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' scaled-dot-product attention, over the keys that the watcher leaves."""
    watch = _WATCH.get()
    allowed = None if watch is None else watch(module, query[0], key[0], value[0])
    if allowed is not None:
        mask = _narrowed(mask, allowed, query, key)
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)


def _narrowed(mask: Tensor | None, allowed: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """(1, H, Q, K) bool: what the model's own mask shows, and `allowed` does too."""
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:  # plain causal attention
        own = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[None, None]
    else:
        own = mask if mask.dtype == torch.bool else mask >= 0
    return own & allowed.repeat_interleave(query.shape[1] // key.shape[1], 0)[None]


AttentionInterface.register(NAME, watched_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
