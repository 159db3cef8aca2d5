"""The inner loop as mathematics: loss -> gradient -> update, pure functions over fast weights.

B batch rows, S sites, C chunk tokens, V vocabulary. Each row is its own learner: its loss, gradient, optimizer and
trust region never look at another row. The same code serves first order (detached gradients) and second order
(`create_graph`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import TTTConfig
from .fast_weights import Bounded, FastWeights, Weights, norms
from .inner_optimizers import Optimizer, State, inner_optimizer

LARGEST_RATE = 1e18  # in place, weights stay finite: the trust region then moves them back with one product
IGNORED = -100  # cross_entropy's mark for a position without a target


def next_token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross-entropy of every next token within a chunk, in nats.

    Parameters
    ----------
    logits : (B, C, V), any floating dtype; the softmax is taken in float32.
    ids : (B, C) integer.

    Returns
    -------
    (B, C - 1) float32 (float64 for float64 logits): entry t is -log p(ids[t + 1] | ids[..t]).
    """
    # The last position has no target yet. Ignoring it, rather than slicing it off, spares the backward pass a copy of
    # the largest tensor there is.
    targets = F.pad(ids[:, 1:], (0, 1), value=IGNORED)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(wide.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=IGNORED)
    return losses.view(ids.shape)[:, :-1]


class _LossesOnce(torch.autograd.Function):
    """`next_token_losses` of (N, V) logits with a gradient that can be taken once.

    The gradient, softmax minus one-hot, is written over the probabilities: one tensor of the size of the logits is
    allocated where autograd's own form allocates three, and memory traffic is what this costs. Losses end where the
    smallest probability does, at 87 nats in float32.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        p = torch.softmax(logits, dim=-1, dtype=wide)
        ctx.save_for_backward(targets)
        ctx.p, ctx.dtype = p, logits.dtype
        return -p.gather(1, targets[:, None])[:, 0].clamp_min(torch.finfo(wide).tiny).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (targets,) = ctx.saved_tensors
        p, ctx.p = ctx.p, None
        p[torch.arange(len(targets), device=p.device), targets] -= 1
        return p.mul_(gradient[:, None]).to(ctx.dtype), None


def next_token_losses_once(logits: Tensor, ids: Tensor) -> Tensor:
    """`next_token_losses` for use: faster, and differentiable once."""
    # The last position has no target; any will do, for its loss is dropped.
    targets = F.pad(ids[:, 1:], (0, 1), value=0)
    losses: Tensor = _LossesOnce.apply(logits.flatten(0, 1), targets.flatten())
    return losses.view(ids.shape)[:, :-1]


def chunk_loss(losses: Tensor, targets: Tensor) -> Tensor:
    """Mean over the tokens that are learned from: TTT-E2E eq. 2. losses, targets (bool): (B, C - 1) -> (B,)."""
    weights = targets.to(losses.dtype)
    return (losses * weights).sum(1) / weights.sum(1).clamp_min(1)


@dataclass
class SiteState:
    """The fast weights of one site and what its optimizer carries; every tensor (B, rows, columns)."""

    weights: Weights
    optimizer: dict[str, State]  # by name of the weight


@dataclass(frozen=True)
class SiteConstants:
    """What the inner loop needs to know of a site and never changes while reading."""

    start: Weights  # (rows, columns) each; names that start at zero are absent
    scale: dict[str, Tensor]  # Frobenius norms the trust region compares with, scalars
    lr: Tensor  # scalar: the configured rate times what the outer loop learned


def fresh_state(
    shapes: dict[str, tuple[int, int]], start: Weights, config: TTTConfig, rows: int, like: Tensor
) -> SiteState:
    """The state before the first update, for `rows` rows, with the dtype and device of `like`."""
    weights, optimizer = {}, {}
    method = inner_optimizer(config.inner_optimizer)
    for name, shape in shapes.items():
        zero = like.new_zeros(rows, *shape)
        # A clone, because updates in place must not reach the stored start.
        weights[name] = start[name].expand(rows, *shape).clone() if name in start else zero
        optimizer[name] = {slot: like.new_zeros(rows, *method.slot_shape(slot, shape)) for slot in method.slots}
    return SiteState(weights, optimizer)


def update(
    kind: FastWeights,
    state: SiteState,
    gradients: Weights,
    constants: SiteConstants,
    config: TTTConfig,
    step: Tensor,
    optimize: Optimizer | None = None,
) -> SiteState:
    """One inner step of one site: optimizer, then the trust region ‖ΔW‖ <= max_relative_update · ‖W‖.

    Parameters
    ----------
    gradients : as `state.weights`, (B, rows, columns).
    step : (B,) the number of this update in each row, from 1.
    optimize : in place of the configured optimizer, for the outer loop.
    """
    optimize = optimize or inner_optimizer(config.inner_optimizer).direction
    weights, optimizer = {}, {}
    for name, gradient in gradients.items():
        direction, optimizer[name] = optimize(gradient, state.optimizer[name], step)
        weights[name] = state.weights[name] - constants.lr * direction
    return SiteState(kind.shrink(weights, constants.start, constants.scale, config.max_relative_update), optimizer)


class Stepped:
    """Which rows of a weight have been stepped in place. An interrupt comes before or after, never in between."""

    def __init__(self, done: Tensor) -> None:
        self.done = done  # (B,) zeros: the operation that writes to a row writes to it as well
        self._tried = False

    @classmethod
    def none_of(cls, states: dict[str, SiteState]) -> dict[str, dict[str, Stepped]]:
        """By site and name."""
        weights = [weight for state in states.values() for weight in state.weights.values()]
        done = iter(weights[0].new_zeros(len(weights), weights[0].shape[0]))
        return {site: {name: cls(next(done)) for name in state.weights} for site, state in states.items()}

    def skipped(self, skipped: Tensor) -> Tensor:
        """(B,) 1 for the rows that are not to be stepped: those `skipped`, and, where it was tried before, the done."""
        again, self._tried = self._tried, True
        return torch.maximum(skipped, (self.done != 0).to(skipped.dtype)) if again else skipped


def update_(
    kind: FastWeights,
    states: dict[str, SiteState],
    gradients: dict[str, Weights],
    constants: dict[str, SiteConstants],
    config: TTTConfig,
    step: Tensor,
    skipped: Tensor,
    stepped: dict[str, dict[str, Stepped]],
) -> None:
    """`update` in place of all sites, for use: no graph is kept, and no device is waited for.

    Over large matrices the inner step is bound by memory traffic; this form passes over each tensor a few times less.
    One that was interrupted may be called again: what has been `stepped` is not stepped twice.

    Parameters
    ----------
    states, gradients, constants, stepped : by site.
    step : (B,) float32, as in `update`.
    skipped : (B,) float32, 1 for the rows that stay as they are, else 0.
    """
    optimizer = inner_optimizer(config.inner_optimizer)
    rates = torch.stack([constants[site].lr for site in states]).clamp_max(LARGEST_RATE)
    for (site, state), lr in zip(states.items(), rates):
        for name, gradient in gradients[site].items():
            mark = stepped[site][name]
            weight, slots = state.weights[name], state.optimizer[name]
            optimizer.step_(weight, gradient, slots, step, lr, mark.skipped(skipped), mark.done)
    bounded = [Bounded(state.weights, constants[site].start, constants[site].scale) for site, state in states.items()]
    kind.shrink_(bounded, config.max_relative_update)


def sound_rows(losses: Tensor, gradients: list[Tensor], vocabulary: int) -> Tensor:
    """(B,) bool: the rows whose update may be applied.

    A row is refused when its loss or its gradient is not finite, or when its loss diverged: worse than guessing
    uniformly over the vocabulary, log V nats, by more than a nat.
    """
    sound = losses < math.log(vocabulary) + 1  # NaN is not
    # A sum of squares is finite only if every entry is; one reduction, no mask of the size of the gradient.
    return sound & (norms(gradients) < math.inf).all(0)
