"""Expected attention (Devoto et al. 2025, arXiv 2510.00636): what queries to come may look at, from those seen so far.

Queries are taken to be Gaussian before their rotation, with the mean and covariance of the context's. Rotated by the
average over the next positions, their expected attention to a key k is exp(k.m / sqrt(D) + k.C.k / 2D), weighed by the
length of the value.
H query heads, G key-value heads, N tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .attention import by_group
from .rotation import rotation, unrotated

FUTURE = 512  # positions
SINKS = 4  # their queries and keys are unlike all others


def expected_attention(rotary: Any) -> Callable[[Any, Tensor, Tensor, Tensor], Tensor]:
    """The score, for a model with this rotary embedding."""

    def score(module: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        tokens, size = query.shape[1:]
        raw = unrotated(query, rotary, torch.arange(tokens, device=query.device))[:, SINKS:].float()
        mean = raw.mean(1)  # (H, D)
        centred = raw - mean[:, None]
        covariance = centred.mT @ centred / raw.shape[1]  # (H, D, D)
        ahead = rotation(rotary, torch.arange(tokens, tokens + FUTURE, device=query.device), size).mean(0)  # (D, D)
        mean, covariance = mean @ ahead.T, ahead @ covariance @ ahead.T
        keys = key[:, SINKS:].float().repeat_interleave(query.shape[0] // key.shape[0], 0)  # (H, N, D)
        expected = (keys @ mean[:, :, None])[..., 0] / size**0.5
        expected = expected + ((keys @ covariance) * keys).sum(-1) / size / 2
        shared = by_group(expected.softmax(-1), key.shape[0]).mean(1)
        return pad(shared * value[:, SINKS:].float().norm(dim=-1), (SINKS, 0), value=float("inf"))

    return score
