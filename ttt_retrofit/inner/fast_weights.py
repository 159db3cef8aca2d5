"""The three kinds of fast weights: what tensors they are, what they add to an output, how far they have moved.

Pure functions over dictionaries of tensors; nothing here knows of chunks, losses or caches.
B batch rows, T tokens, I in features, O out features, R rank (of `lora`) or width (of `prime`).
Every weight is batch-first, one set per row, with shape (B or 1, ...): 1 is shared by all rows.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TTTConfig
from .discovery import Site

Weights = dict[str, Tensor]


class FastWeights(Protocol):
    """What a kind of fast weights has to say."""

    learned_start: tuple[str, ...]
    """Names whose start is a stored parameter; the others start at zero and are not stored."""

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]: ...

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        """The learned starts, (rows, columns) each, float32."""
        ...

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The scale of a step, beside a projection of this Frobenius norm; scalars."""
        ...

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        """The site's output `onto`, (B, T, O), plus the fast term of its input x, (B, T, I)."""
        ...

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        """`weights` moved back towards `start` until the relative change of every matrix is at most `bound`.

        scale holds the Frobenius norms to compare with, as scalars.
        """
        ...

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        """(B,) the largest relative change of a matrix of this site."""
        ...


def frobenius(matrix: Tensor) -> Tensor:
    """(B, O, I) -> (B,)."""
    return torch.linalg.vector_norm(matrix, dim=(-2, -1))


def batch_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x: (B, T, I), weight: (B or 1, O, I) -> (B, T, O)."""
    if weight.shape[0] == 1:
        return F.linear(x, weight.squeeze(0))
    return torch.bmm(x, weight.mT)


def add_batch_linear(onto: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """onto + x weightᵀ in one pass over `onto`. onto: (B, T, O)."""
    if weight.shape[0] == 1:
        return torch.addmm(onto.flatten(0, 1), x.flatten(0, 1), weight.squeeze(0).mT).view(onto.shape)
    return torch.baddbmm(onto, x, weight.mT)


def _interpolate(weights: Weights, start: Weights, factor: Tensor) -> Weights:
    """start + factor * (weights - start), factor: (B,) in [0, 1]; a name without a start begins at zero."""
    moved, factor = {}, factor[:, None, None]
    for name, weight in weights.items():
        change = weight - start[name] if name in start else weight
        # Not a product alone: zero times infinity is NaN.
        change = torch.where(factor > 0, factor * change, 0)
        moved[name] = start[name] + change if name in start else change
    return moved


class Delta:
    """A full matrix added to the projection: y = W x + Δ x, Δ starting at zero."""

    learned_start: tuple[str, ...] = ()

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        return {"delta": (site.out_features, site.in_features)}

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        return {}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The root mean square of the projection's entries."""
        return norm / math.sqrt(site.out_features * site.in_features)

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        return add_batch_linear(onto, x, weights["delta"])

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        return frobenius(weights["delta"]) / scale["base"]

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        factor = _largest_step(self.displacement(weights, start, scale), bound)
        return _interpolate(weights, start, factor)


class LoRA:
    """A low-rank matrix added to the projection: y = W x + B (A x), with A random and B zero at the start."""

    learned_start: tuple[str, ...] = ("a", "b")

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        return {"a": (self.rank, site.in_features), "b": (site.out_features, self.rank)}

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        shapes = self.shapes(site)
        a = torch.randn(shapes["a"], generator=generator) / math.sqrt(site.in_features)
        return {"a": a, "b": torch.zeros(shapes["b"])}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The root mean square of a B whose product with a fresh A has the norm of the projection."""
        return norm / math.sqrt(site.out_features * self.rank)

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        return add_batch_linear(onto, batch_linear(x, weights["a"]), weights["b"])

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        return frobenius(weights["b"] @ weights["a"] - start["b"] @ start["a"]) / scale["base"]

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        # With both factors moved by s, the product moves by s X + s² Y. ‖X + s Y‖ is convex in s, so on [0, 1] it is at
        # most max(‖X‖, ‖X + Y‖), and s = bound / that is certain to stay inside.
        a, b = weights["a"] - start["a"], weights["b"] - start["b"]
        linear = start["b"] @ a + b @ start["a"]
        largest = torch.maximum(frobenius(linear), frobenius(linear + b @ a)) / scale["base"]
        return _interpolate(weights, start, _largest_step(largest, bound))


class Prime:
    """A gated MLP beside the base's own: y = MLP(x) + V (silu(G x) * U x), V zero at the start.

    TTT-E2E's dual MLP (§2.3), in parallel rather than in series: in series it needs norms that no checkpoint has.
    """

    learned_start: tuple[str, ...] = ("gate", "up", "down")

    def __init__(self, width: int) -> None:
        self.width = width

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        inward = (self.width, site.in_features)
        return {"gate": inward, "up": inward, "down": (site.out_features, self.width)}

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        shapes = self.shapes(site)
        gate, up = (
            torch.randn(shapes[name], generator=generator) / math.sqrt(site.in_features) for name in ("gate", "up")
        )
        return {"gate": gate, "up": up, "down": torch.zeros(shapes["down"])}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The root mean square of a V as wide as this one that has the norm of the block's projection."""
        return norm / math.sqrt(site.out_features * self.width)

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        hidden = F.silu(batch_linear(x, weights["gate"])) * batch_linear(x, weights["up"])
        return add_batch_linear(onto, hidden, weights["down"])

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        return torch.stack([frobenius(w - start[n]) / scale[n] for n, w in weights.items()]).amax(0)

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        shrunk: Weights = {}
        for name, weight in weights.items():
            factor = _largest_step(frobenius(weight - start[name]) / scale[name], bound)
            shrunk |= _interpolate({name: weight}, start, factor)
        return shrunk


def _largest_step(displacement: Tensor, bound: float) -> Tensor:
    """The factor in (0, 1] that brings a displacement down to `bound`; 0, back to the start, where it overflowed."""
    factor = (bound / displacement.clamp_min(torch.finfo(displacement.dtype).tiny)).clamp_max(1.0)
    return torch.where(torch.isfinite(displacement), factor, 0)


def fast_weights(config: TTTConfig) -> FastWeights:
    """The kind that a configuration names."""
    if config.fast_weights == "delta":
        return Delta()
    return LoRA(config.rank) if config.fast_weights == "lora" else Prime(config.rank)
