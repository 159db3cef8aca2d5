"""KVzip (Kim et al. 2025, arXiv 2505.23416): the keys the model looks at while it repeats the context from its cache.

The question is not needed, and the reading is paid for twice. All heads of all layers share one budget.
L layers, G key-value heads, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .attention import by_group
from .evict import Context, Kept, keep_top_of_all
from .watch import watched

PART = 2048  # tokens repeated in one forward
SINKS = 4
REMINDER = 8  # last tokens of the part before, with which a later part is announced
FIRST = "\n\nRepeat the previous context exactly."
LATER = "\n\nRepeat the part of the previous context exactly, starting with"
TILE = 256  # queries whose attention is held at once


@torch.no_grad()
def kvzip_scores(
    model: Any, tokenizer: PreTrainedTokenizerBase, context: Context, ending: list[int], first: int = 0
) -> Tensor:
    """(L, G, N): the most attention that any repeated token paid.

    Parameters
    ----------
    ending : what ends a request in the model's template.
    first : tokens at the beginning, of a template, that are not repeated.
    """
    ids = context.ids.tolist()
    tokens = len(ids)
    first_key = context.cache.layers[0].keys
    scores = first_key.new_zeros(len(context.cache.layers), first_key.shape[1], tokens, dtype=torch.float32)
    for start in range(first, tokens, PART):
        part = ids[start : start + PART]
        request = tokenizer(LATER if start > first else FIRST, add_special_tokens=False).input_ids
        request += ids[max(start - REMINDER, first) : start] + ending
        span = slice(start, start + len(part))

        def watch(module: Any, query: Tensor, key: Tensor, value: Tensor, span: slice = span) -> None:
            sinks, repeated = min(SINKS, span.start), key[:, tokens:]
            looked_at = torch.cat([key[:, :sinks], key[:, span], repeated], 1)
            most = _most(query, looked_at, module.scaling, repeated.shape[1])
            scores[module.layer_idx, :, span] = most[:, sinks : sinks + span.stop - span.start]

        with watched(model, watch):
            read = torch.tensor([request + part], device=context.ids.device)
            model(input_ids=read, past_key_values=context.cache, logits_to_keep=1)
        context.cache.crop(-(len(request) + len(part)))
    return scores


def kvzip(context: Context, scores: Tensor, kept: int) -> Kept:
    """What is left of the context, `kept` keys a head on average."""
    return keep_top_of_all(context, scores, kept, SINKS)


def _most(query: Tensor, key: Tensor, scaling: float, own: int) -> Tensor:
    """(G, K): the largest weight of each key over queries and heads; the last `own` keys are the queries' own."""
    groups = query.shape[0] // key.shape[0]
    wide = key.repeat_interleave(groups, 0)
    before, most = key.shape[1] - own, key.new_zeros(key.shape[:2], dtype=torch.float32)
    for first in range(0, own, TILE):
        last = min(first + TILE, own)
        scores = (query[:, first:last] @ wide.mT).float() * scaling
        seen = torch.ones(last - first, own, dtype=torch.bool, device=key.device).tril(first)
        scores[..., before:].masked_fill_(~seen, -torch.inf)
        weight = by_group(scores.softmax(-1), key.shape[0]).amax((1, 2))
        most = torch.maximum(most, weight)
    return most
