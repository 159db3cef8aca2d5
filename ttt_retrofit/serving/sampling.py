"""Sampling: each row of a batch has its own temperature, nucleus and random numbers.

B rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

GREEDY_BELOW = 1e-5  # a lower temperature always draws the largest logit, and dividing by it would overflow


@dataclass(frozen=True)
class Sampling:
    """The sampling parameters of one request, and its random numbers."""

    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is all
    seed: int | None = None
    generator: torch.Generator = field(default_factory=torch.Generator, compare=False)

    def __post_init__(self) -> None:
        self.generator.seed() if self.seed is None else self.generator.manual_seed(self.seed)

    @classmethod
    def from_request(cls, model: Any, temperature: float | None, top_p: float | None, seed: int | None) -> Sampling:
        """What the request gives. The rest is what the checkpoint recommends in its `generation_config`.

        A checkpoint that recommends nothing is greedy until a temperature or a nucleus is given.
        """
        recommended = model.generation_config
        if temperature is None:
            sampled = recommended.do_sample or top_p is not None
            temperature = (1.0 if recommended.temperature is None else recommended.temperature) if sampled else 0.0
        if top_p is None:
            top_p = recommended.top_p if recommended.do_sample and recommended.top_p is not None else 1.0
        top_k = recommended.top_k if recommended.do_sample and recommended.top_k is not None else 0
        return cls(temperature, top_p, top_k, seed)

    def __call__(self, logits: Tensor) -> Tensor:
        """logits: (V,). Returns (V,) logits whose largest is the token drawn (Gumbel-max).

        The noise comes from the request's own generator, so that neither its neighbours in the batch nor a
        consolidation that samples meanwhile can change what it draws.
        """
        if self.temperature < GREEDY_BELOW:
            return logits
        scaled = logits.float() / self.temperature
        if self.top_k:
            scaled = scaled.masked_fill(scaled < scaled.topk(min(self.top_k, len(scaled))).values[-1], -torch.inf)
        if self.top_p < 1:
            probabilities, order = scaled.softmax(-1).sort(descending=True)
            before = probabilities.cumsum(-1) - probabilities
            scaled[order[before >= self.top_p]] = -torch.inf
        uniform = torch.rand(scaled.shape, generator=self.generator, device="cpu").clamp_min(1e-20).to(scaled.device)
        return scaled - (-uniform.log()).log()


class SamplingProcessor(LogitsProcessor):
    """Applies each row's own `Sampling`, for a `generate` that takes the largest logit."""

    def __init__(self, rows: Sequence[Sampling]) -> None:
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V)."""
        return torch.stack([sampling(logits).float() for sampling, logits in zip(self.rows, scores)])
