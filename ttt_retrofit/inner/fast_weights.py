"""The three kinds of fast weights: what tensors they are, what they add to an output, how far they have moved.

Pure functions over dictionaries of tensors; nothing here knows of chunks, losses or caches.
B batch rows, T tokens, S sites, I in features, O out features, R rank (of `lora`) or width (of `prime`).
Every weight is batch-first, one set per row, with shape (B or 1, ...): 1 is shared by all rows.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from typing import ClassVar, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import FAST_WEIGHTS, TTTConfig
from ..errors import ConfigError
from .calibration import principal_directions
from .discovery import Site
from .registry import register_fast_weights

Weights = dict[str, Tensor]


class Bounded(NamedTuple):
    """The weights of a site, and what their change is measured by, as `FastWeights.shrink` has them."""

    weights: Weights
    start: Weights
    scale: dict[str, Tensor]


class FastWeights(Protocol):
    """What a kind of fast weights has to say. It keeps no tensors itself.

    Parameters
    ----------
    rank : `TTTConfig.rank`, which a kind without a size of its own passes by.
    """

    learned_start: ClassVar[tuple[str, ...]] = ()
    """Names whose start is a stored parameter; the others start at zero and are not stored."""

    fixed: ClassVar[tuple[str, ...]] = ()
    """Names of matrices that a site stores and that no step changes. `__call__` gets them among the weights."""

    beside_block: ClassVar[bool] = False
    """Whether they stand beside whole MLP blocks, and not beside the projections that `target_modules` names."""

    relative_lr: ClassVar[dict[str, float]] = {}
    """`TTTConfig.relative_lr` by optimizer, where that of the optimizer does not suit."""

    rank: int

    def __init__(self, rank: int) -> None:
        self.rank = rank

    @abstractmethod
    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        """The matrices of a site, by name: (rows, columns) each."""

    def fixed_shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        """The matrices of `fixed`, by name: (rows, columns) each."""
        return {}

    def calibrated(self, site: Site, inputs: Tensor, generator: torch.Generator) -> Weights:
        """The matrices of `fixed`, from inputs of the site on some text, (N, I) float32."""
        return {}

    def check(self, site: Site) -> None:
        """Raises `ConfigError` for a site that they cannot be added to."""

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        """The learned starts, (rows, columns) each, float32."""
        return {}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The scale of a step, beside a projection of this Frobenius norm: the root mean square of entries.

        norm: a scalar, or those of several sites of the same shape, (S,).
        """
        return norm / math.sqrt(site.out_features * site.in_features)

    @abstractmethod
    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        """The site's output `onto`, (B, T, O), plus the fast term of its input x, (B, T, I)."""

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        """(B,) the largest relative change of a matrix of this site.

        scale holds the Frobenius norms to compare with, as scalars: of the learned starts by name, and "base", that of
        the projection.
        """
        changes = [_change(name, weight, start, scale) for name, weight in weights.items()]
        return changes[0] if len(changes) == 1 else torch.stack(changes).amax(0)

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        """`weights` moved back towards `start` until the relative change of every matrix is at most `bound`."""
        shrunk: Weights = {}
        for name, weight in weights.items():
            factor = _largest_step(_change(name, weight, start, scale), bound)
            shrunk |= _interpolate({name: weight}, start, factor)
        return shrunk

    def shrink_(self, sites: list[Bounded], bound: float) -> None:
        """`shrink` in place at all sites. All weights are finite."""
        for site in sites:
            shrunk = self.shrink(*site, bound)
            torch._foreach_copy_([site.weights[name] for name in shrunk], list(shrunk.values()))


def frobenius(matrix: Tensor) -> Tensor:
    """(B, O, I) -> (B,)."""
    norm: Tensor = torch.linalg.vector_norm(matrix, dim=(-2, -1))
    return norm


def norms(matrices: list[Tensor]) -> Tensor:
    """`frobenius` of N matrices in one call: (B, O, I) each -> (N, B)."""
    by_row = torch._foreach_norm([row for matrix in matrices for row in matrix.unbind()])
    return torch.stack(by_row).view(len(matrices), -1)


def _shrink_together(kind: FastWeights, sites: Iterable[Bounded], bound: float) -> None:
    """`FastWeights.shrink_` of small matrices: sites of the same shapes are rows of one."""
    alike: dict[tuple[torch.Size, ...], list[Bounded]] = defaultdict(list)
    for site in sites:
        alike[tuple(weight.shape for weight in site.weights.values())].append(site)
    for shapes, group in alike.items():
        rows = shapes[0][0]
        weights = {name: torch.cat([site.weights[name] for site in group]) for name in group[0].weights}
        start, scale = (
            {name: torch.stack([of[name] for of in found]).repeat_interleave(rows, 0) for name in found[0]}
            for found in ([site.start for site in group], [site.scale for site in group])
        )
        for name, shrunk in kind.shrink(weights, start, scale, bound).items():
            torch._foreach_copy_([site.weights[name] for site in group], list(shrunk.split(rows)))


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


def _change(name: str, weight: Tensor, start: Weights, scale: dict[str, Tensor]) -> Tensor:
    """(B,) ‖W - W₀‖ over the norm of W₀, or of the projection where W starts at zero."""
    if name in start:
        return frobenius(weight - start[name]) / scale[name]
    return frobenius(weight) / scale["base"]


def _interpolate(weights: Weights, start: Weights, factor: Tensor) -> Weights:
    """start + factor * (weights - start), factor: (B,) in [0, 1]; a name without a start begins at zero."""
    moved, factor = {}, factor[:, None, None]
    for name, weight in weights.items():
        change = weight - start[name] if name in start else weight
        # Not a product alone: zero times infinity is NaN.
        change = torch.where(factor > 0, factor * change, 0)
        moved[name] = start[name] + change if name in start else change
    return moved


@register_fast_weights("delta")
class Delta(FastWeights):
    """A full matrix added to the projection: y = W x + Δ x, Δ starting at zero."""

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        return {"delta": (site.out_features, site.in_features)}

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        return add_batch_linear(onto, x, weights["delta"])

    def shrink_(self, sites: list[Bounded], bound: float) -> None:
        matrices = [site.weights["delta"] for site in sites]
        base = torch.stack([site.scale["base"] for site in sites])
        factors = _largest_step(norms(matrices) / base[:, None], bound)  # (S, B)
        for matrix, factor in zip(matrices, factors):
            matrix.mul_(factor[:, None, None])


@register_fast_weights("lora")
class LoRA(FastWeights):
    """A low-rank matrix added to the projection: y = W x + B (A x), with A random and B zero at the start."""

    learned_start = ("a", "b")

    def check(self, site: Site) -> None:
        limit = min(site.in_features, site.out_features)
        if self.rank > limit:
            raise ConfigError(
                f"rank={self.rank} is larger than the matrix {site.path} ({site.out_features} x {site.in_features}). "
                f"Take rank <= {limit}, or fast_weights='delta'."
            )

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

    def shrink_(self, sites: list[Bounded], bound: float) -> None:
        _shrink_together(self, sites, bound)


@register_fast_weights("subspace")
class Subspace(FastWeights):
    """A matrix on a few directions of the input: y = W x + B (A x). B learns, from zero; A is calibrated once.

    The rows of A are the principal directions of the inputs. They are orthonormal, so that B A has the norm of B.
    """

    learned_start = ("b",)
    fixed = ("a",)

    def directions(self, site: Site) -> int:
        """How many: `rank`, or all there are."""
        return min(self.rank, site.in_features)

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        return {"b": (site.out_features, self.directions(site))}

    def fixed_shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        return {"a": (self.directions(site), site.in_features)}

    def calibrated(self, site: Site, inputs: Tensor, generator: torch.Generator) -> Weights:
        return {"a": principal_directions(inputs, self.directions(site), generator)}

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        return {"b": torch.zeros(self.shapes(site)["b"])}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The root mean square of a B that has the norm of the projection."""
        return norm / math.sqrt(site.out_features * self.directions(site))

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        return add_batch_linear(onto, batch_linear(x, weights["a"]), weights["b"])

    def displacement(self, weights: Weights, start: Weights, scale: dict[str, Tensor]) -> Tensor:
        return frobenius(weights["b"] - start["b"]) / scale["base"]

    def shrink(self, weights: Weights, start: Weights, scale: dict[str, Tensor], bound: float) -> Weights:
        return _interpolate(weights, start, _largest_step(self.displacement(weights, start, scale), bound))

    def shrink_(self, sites: list[Bounded], bound: float) -> None:
        _shrink_together(self, sites, bound)


@register_fast_weights("prime")
class Prime(FastWeights):
    """A gated MLP beside the base's own: y = MLP(x) + V (silu(G x) * U x), V zero at the start.

    TTT-E2E's dual MLP (§2.3), in parallel rather than in series: in series it needs norms that no checkpoint has.
    """

    learned_start = ("gate", "up", "down")
    beside_block = True
    relative_lr: ClassVar[dict[str, float]] = {"adam": 1e-2}  # an added MLP begins with nothing to lose

    def shapes(self, site: Site) -> dict[str, tuple[int, int]]:
        inward = (self.rank, site.in_features)
        return {"gate": inward, "up": inward, "down": (site.out_features, self.rank)}

    def start(self, site: Site, generator: torch.Generator) -> Weights:
        shapes = self.shapes(site)
        gate, up = (
            torch.randn(shapes[name], generator=generator) / math.sqrt(site.in_features) for name in ("gate", "up")
        )
        return {"gate": gate, "up": up, "down": torch.zeros(shapes["down"])}

    def unit(self, site: Site, norm: Tensor) -> Tensor:
        """The root mean square of a V as wide as this one that has the norm of the block's projection."""
        return norm / math.sqrt(site.out_features * self.rank)

    def __call__(self, onto: Tensor, x: Tensor, weights: Weights) -> Tensor:
        hidden = F.silu(batch_linear(x, weights["gate"])) * batch_linear(x, weights["up"])
        return add_batch_linear(onto, hidden, weights["down"])

    def shrink_(self, sites: list[Bounded], bound: float) -> None:
        _shrink_together(self, sites, bound)


def _largest_step(displacement: Tensor, bound: float) -> Tensor:
    """The factor in (0, 1] that brings a displacement down to `bound`; 0, back to the start, where it overflowed."""
    factor = (bound / displacement.clamp_min(torch.finfo(displacement.dtype).tiny)).clamp_max(1.0)
    return torch.where(displacement < math.inf, factor, 0)  # NaN is not


def fast_weights(config: TTTConfig) -> FastWeights:
    """The kind that a configuration names."""
    kind: FastWeights = FAST_WEIGHTS.get(config.fast_weights)(config.rank)
    return kind
