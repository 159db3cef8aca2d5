"""Back through one chunk: from what later chunks make of its results to what it makes of its beginning.

A chunk turns fast weights W, optimizer state and keys K into a loss L(W, K, θ), new keys, and through the gradient
g = ∂L/∂W a step. The outer loop goes back in two parts. `through_step` is elementwise: it gives the cotangent u, the
derivative of all that follows with respect to g. What is left is the derivative of w L + ⟨λ, K'⟩ + ⟨u, ∂L/∂W⟩, with w
the weight of this loss and λ the derivative of all that follows with respect to the keys K' that are left behind. Its
last term is second order. It exists twice, and a test compares the two:

- `by_double_backward`, the definition: a graph of the gradient. Needs attention that can be differentiated twice, whose
  scores, heads x chunk x (window + chunk), it keeps for every layer.
- `by_differences`: ⟨u, ∂L/∂W⟩ is the derivative of L along u, so its gradient is that of L at W + εu less that at W,
  over ε (as in DARTS, arXiv 1806.09055, eq. 8; the reverse sweep is that of MixFlow-MG, arXiv 2505.00793). The gradient
  at W is what the chunk was learned from, so one ordinary forward and backward pass is all, with any kernel and any
  quantized base. In 16 bits a difference drowns in rounding.

B batch rows, C chunk, H key-value heads, N kept tokens, D head dimension, O out features, I in features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..inner.fast_state import FastState
from ..inner.fast_weights import Weights
from ..inner.inner_loop import SiteState, next_token_losses, next_token_losses_once, sound_rows
from ..inner.learning import InnerStep, Outer, step_of
from ..streaming.cache import TTTCache
from ..streaming.reading import Settings, read
from ..streaming.tokens import Tokens
from .parameters import GradientSums, OuterParameters
from .replay import Output, replaying
from .smoothing import differentiable

# Of a whole inner step: how far W is moved to take a difference. `docs/research-log/outer-loop.md` has the errors.
DIFFERENCE = {torch.float32: 0.02, torch.float64: 1e-6}

Keys = list[tuple[Tensor, Tensor] | None]  # (B, H, N, D) keys and values by layer; None where nothing depends on W or θ


@dataclass
class Chunk:
    """A chunk that was learned from, and all that was there before it."""

    before: TTTCache
    tokens: Tokens  # (B, C)
    step: InnerStep
    below: list[Output]  # what the layers that nothing trained reaches made of it

    def gradient(self, outer: OuterParameters) -> ChunkGradients:
        """The gradient of the chunk's loss, as the forward sweep found it."""
        direct, past = self.step.along[: len(outer.direct)], iter(self.step.along[len(outer.direct) :])
        keys: Keys = [None] * len(self.before.layers)
        for index in _with_past(self.before, outer.lowest):
            key, value = self.before.layers[index].past()
            keys[index] = _or_zeros(next(past), key), _or_zeros(next(past), value)
        return ChunkGradients(self.step.gradients, keys, list(direct))


@dataclass
class Adjoint:
    """Derivatives of the losses of all later chunks."""

    fast: dict[str, Tensor]  # of the state after the step, as `FastState.tensors` names it
    keys: Keys


@dataclass
class ChunkGradients:
    """Derivatives through the forward of a chunk, without those through its inner step."""

    fast: dict[str, Weights]
    keys: Keys
    direct: list[Tensor | None]  # of `OuterParameters.direct`

    def times(self, factor: float) -> ChunkGradients:
        fast = {name: {key: factor * g for key, g in by_name.items()} for name, by_name in self.fast.items()}
        keys: Keys = [None if pair is None else (factor * pair[0], factor * pair[1]) for pair in self.keys]
        return ChunkGradients(fast, keys, [None if g is None else factor * g for g in self.direct])

    def plus(self, other: ChunkGradients, factor: float) -> ChunkGradients:
        """This and `factor` times the other."""
        fast = {n: {key: g + factor * other.fast[n][key] for key, g in by.items()} for n, by in self.fast.items()}
        keys: Keys = [
            None if a is None or b is None else (a[0] + factor * b[0], a[1] + factor * b[1])
            for a, b in zip(self.keys, other.keys)
        ]
        direct = [
            a if b is None else factor * b if a is None else a + factor * b for a, b in zip(self.direct, other.direct)
        ]
        return ChunkGradients(fast, keys, direct)


ChunkBackward = Callable[[Any, OuterParameters, Chunk, float, "Cotangent | None", Keys], ChunkGradients]


@dataclass
class Cotangent:
    """u, the derivative of all that follows with respect to g, and how far along it a difference may be taken."""

    u: dict[str, Weights]
    reach: Tensor  # the length of the inner step over the length of u; 0 where u is 0


def through_step(model: Any, chunk: Chunk, adjoint: Adjoint, sums: GradientSums) -> tuple[Cotangent, dict[str, Tensor]]:
    """Back through optimizer and trust region: u, and the derivatives of the state before the step past g.

    Site after site, so that the graph of one is all there is of it.
    """
    step, before = chunk.step, chunk.before.fast.tensors()
    flat = [gradient for by_name in step.gradients.values() for gradient in by_name.values()]
    firing = step.firing & sound_rows(step.losses, flat, model.vocabulary_size)
    u: dict[str, Weights] = {}
    past_g: dict[str, Tensor] = {}
    moved = []
    for name, by_name in step.gradients.items():
        state = {key: _leaf(tensor) for key, tensor in before.items() if key.partition("|")[0] == name}
        fast = FastState.from_tensors({**state, "steps": before["steps"]})
        gradients = {key: _leaf(gradient) for key, gradient in by_name.items()}
        outer = sums.outer.of_step(name)
        with torch.enable_grad():
            optimize = differentiable(model.ttt.inner_optimizer)
            new = step_of(model, fast, step.losses, {name: gradients}, firing, optimize).tensors()
            reached = [key for key in state if new[key].requires_grad]
            inputs = [*gradients.values(), *state.values(), *outer]
            seeds = [adjoint.fast[key] for key in reached]
            taken = iter(torch.autograd.grad([new[key] for key in reached], inputs, seeds, allow_unused=True))
        u[name] = {key: _or_zeros(next(taken), gradient) for key, gradient in gradients.items()}
        past_g |= {key: _or_zeros(next(taken), tensor) for key, tensor in state.items()}
        for parameter in outer:
            sums.add(parameter, next(taken))
        moved.append(_length([(new[f"{name}|{key}"] - state[f"{name}|{key}"]).detach() for key in gradients]))
    length = _length([d for by_name in u.values() for d in by_name.values()])
    reach = torch.stack(moved).norm() / length if length > 0 else torch.zeros_like(length)
    return Cotangent(u, reach), past_g


@torch.enable_grad()
def by_double_backward(
    model: Any, outer: OuterParameters, chunk: Chunk, weight: float, cotangent: Cotangent | None, keys: Keys
) -> ChunkGradients:
    """The gradient of w L + ⟨λ, K'⟩ + ⟨u, ∂L/∂W⟩, by autograd."""
    forward = _Forward(model, outer, chunk, None, order=2)
    total = weight * forward.losses.sum() + forward.product(keys)
    if cotangent is not None:
        flat = forward.fast
        gradients = torch.autograd.grad(forward.losses.sum(), flat, create_graph=True)
        u = [cotangent.u[name][key] for name, by in chunk.step.gradients.items() for key in by]
        total = total + sum((g * d).sum() for g, d in zip(gradients, u))
    return forward.gradients(total)


@torch.enable_grad()
def by_differences(
    model: Any,
    outer: OuterParameters,
    chunk: Chunk,
    weight: float,
    cotangent: Cotangent | None,
    keys: Keys,
    always: bool = False,
) -> ChunkGradients:
    """The same, from the gradients of L at W + εu and at W.

    always : go through the last chunk too, whose gradient is known, as other processes go through theirs.
    """
    if cotangent is None and not always:  # of the last chunk, on which nothing depends
        return chunk.gradient(outer).times(weight)
    reach = 0.0 if cotangent is None else float(cotangent.reach)
    if cotangent is None or reach == 0:  # nothing depends on the step, but on the keys
        forward = _Forward(model, outer, chunk, None, order=1)
        return forward.gradients(weight * forward.losses.sum() + forward.product(keys))
    epsilon = DIFFERENCE[cotangent.reach.dtype] * reach
    shift = {name: {key: epsilon * d for key, d in by.items()} for name, by in cotangent.u.items()}
    forward = _Forward(model, outer, chunk, shift, order=1)
    moved = forward.gradients(forward.losses.sum() / epsilon + forward.product(keys))
    return moved.plus(chunk.gradient(outer), weight - 1 / epsilon)


class _Forward:
    """The forward of a chunk from its beginning, with a graph down to fast weights, keys and other parameters."""

    def __init__(
        self, model: Any, outer: OuterParameters, chunk: Chunk, shift: dict[str, Weights] | None, order: int
    ) -> None:
        cache = copy.deepcopy(chunk.before)
        self.outer, self.cache = outer, cache
        sites = {}
        for name, state in cache.fast.sites.items():
            moved = {k: w if shift is None else w + shift[name][k] for k, w in state.weights.items()}
            sites[name] = SiteState({key: weight.requires_grad_() for key, weight in moved.items()}, {})
        cache.fast = FastState(sites, cache.fast.steps)
        self.sites = sites
        self.fast = [weight for state in sites.values() for weight in state.weights.values()]
        self.with_past, self.past = _with_past(cache, outer.lowest), open_past(cache, outer.lowest)
        record = Outer(record=True, order=order, folded=order == 1 and outer.folded)
        with replaying(outer.below, chunk.below):
            (segment,) = read(model, cache, chunk.tokens, Settings(learn=False, outer=record))
        losses = next_token_losses if order == 2 else next_token_losses_once
        by_token = losses(segment.output.logits, chunk.tokens.ids)  # (B, C - 1)
        self.losses = torch.where(chunk.step.firing, by_token.mean(1), 0)

    def product(self, keys: Keys) -> Tensor:
        """⟨λ, K'⟩ over the keys and values that the chunk leaves behind."""
        total = self.losses.new_zeros(())
        for layer, adjoint in zip(self.cache.layers, keys):
            if adjoint is not None:
                total = total + sum((kept * a).sum() for kept, a in zip(layer.past(), adjoint))
        return total

    def gradients(self, total: Tensor) -> ChunkGradients:
        past = self.past
        inputs = [*self.fast, *past, *self.outer.direct]
        taken = torch.autograd.grad(total, inputs, allow_unused=True)
        found = iter([_or_zeros(gradient, tensor) for gradient, tensor in zip(taken, [*self.fast, *past])])
        by_site = {name: {key: next(found) for key in state.weights} for name, state in self.sites.items()}
        keys: Keys = [None] * len(self.cache.layers)
        for index in self.with_past:
            keys[index] = next(found), next(found)
        return ChunkGradients(by_site, keys, list(taken[len(self.fast) + len(past) :]))


def open_past(cache: TTTCache, lowest: int) -> list[Tensor]:
    """Make keys and values of the layers from `lowest` on into leaves of a graph, and return them."""
    past = []
    for index in _with_past(cache, lowest):
        layer = cache.layers[index]
        layer.keys, layer.values = (tensor.detach().clone().requires_grad_() for tensor in layer.past())
        past += [layer.keys, layer.values]
    return past


def _with_past(cache: TTTCache, lowest: int) -> list[int]:
    return [index for index, layer in enumerate(cache.layers) if index >= lowest and layer.is_initialized]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _length(tensors: list[Tensor]) -> Tensor:
    """The norm over all tensors together."""
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).norm()
