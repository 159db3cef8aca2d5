"""Inner optimizers as the outer loop differentiates them.

Adam's first direction is g / √(g² + eps²), a step function of g with the slope 1/eps = 1e8 at zero. That slope is
right, and of no use: it says what an infinitesimal change of a coordinate near zero does, and nothing about a step of
the outer loop. The outer loop takes the derivative of a smoothed Adam instead, at the weights that the plain one has
reached: its eps is `SMOOTHING` times the root mean square of the matrix's gradients. A matrix that no gradient has
reached, as the first factor of a fresh `lora` whose second is zero, is a constant.
B batch rows, O out features, I in features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inner.inner_optimizers import ADAM_BETAS, ADAM_EPS, Optimizer, State, inner_optimizer

SMOOTHING = 0.1
BETA1, BETA2 = ADAM_BETAS


def smooth_adam(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """`inner_optimizers.Adam` with an eps that follows the size of the gradients, (B, O, I); by autograd."""
    t = step.view(-1, 1, 1).to(gradient.dtype)
    m = torch.lerp(gradient, state["m"], BETA1)
    v = torch.lerp(gradient * gradient, state["v"], BETA2)
    root = _root(v, 1 - BETA2**t)
    return m / (1 - BETA1**t) / root, {"m": m, "v": v}


def smooth_adam_once(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """`smooth_adam` with its derivative written out: the outer loop takes it once for every chunk."""
    direction, m, v = _SmoothAdam.apply(gradient, state["m"], state["v"], step.view(-1, 1, 1).to(gradient.dtype))
    return direction, {"m": m, "v": v}


def differentiable(name: str) -> Optimizer:
    """The optimizer of that name, as the outer loop goes back through it."""
    return smooth_adam_once if name == "adam" else inner_optimizer(name).direction


def _root(v: Tensor, correction: Tensor) -> Tensor:
    """√(v̂ + eps²), infinite where no gradient has reached the matrix."""
    second = v / correction
    mean = second.detach().mean((-2, -1), keepdim=True)
    return torch.sqrt(torch.where(mean > 0, second + (SMOOTHING**2 * mean + ADAM_EPS**2), torch.inf))


class _SmoothAdam(torch.autograd.Function):
    """With d = m̂ / r and r² = v̂ + eps²: ∂d/∂m̂ = 1/r and ∂d/∂v̂ = -d / 2r²."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, m: Tensor, v: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = torch.lerp(gradient, m, BETA1)
        v = (gradient * gradient).lerp_(v, BETA2)
        root = _root(v, 1 - BETA2**t)
        direction = (m / root).div_(1 - BETA1**t)
        ctx.save_for_backward(gradient, direction, root, t)
        return direction, m, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, of_d: Tensor, of_m: Tensor, of_v: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        gradient, direction, root, t = ctx.saved_tensors
        scaled = of_d / root
        of_m = torch.addcdiv(of_m, scaled, 1 - BETA1**t)
        of_v = of_v - scaled.mul_(direction).div_(root).div_(2 * (1 - BETA2**t))
        of_gradient = (gradient * of_v).mul_(2 * (1 - BETA2)).add_(of_m, alpha=1 - BETA1)
        return of_gradient, of_m.mul_(BETA1), of_v.mul_(BETA2), None
