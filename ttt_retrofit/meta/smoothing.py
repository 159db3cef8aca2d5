"""Inner optimizers as the outer loop differentiates them.

Adam's first direction is g / √(g² + eps²), a step function of g with the slope 1/eps = 1e8 at zero. That slope is right,
and of no use: it says what an infinitesimal change of a coordinate near zero does, and nothing about a step of the outer
loop. The outer loop takes the derivative of a smoothed Adam instead, at the weights that the plain one has reached: its
eps is `SMOOTHING` times the root mean square of the matrix's gradients. A matrix that no gradient has reached, as the
first factor of a fresh `lora` whose second is zero, is a constant.
B batch rows, O out features, I in features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import OptimizerName
from ..inner_optimizers import ADAM_BETAS, ADAM_EPS, OPTIMIZERS, Optimizer, State

SMOOTHING = 0.1


def smooth_adam(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """`inner_optimizers.adam` with an eps that follows the size of the gradients. (B, O, I)."""
    beta1, beta2 = ADAM_BETAS
    t = step.view(-1, 1, 1).to(gradient.dtype)
    m = torch.lerp(gradient, state["m"], beta1)
    v = torch.lerp(gradient * gradient, state["v"], beta2)
    second = v / (1 - beta2**t)
    mean = second.detach().mean((-2, -1), keepdim=True)
    root = torch.sqrt(torch.where(mean > 0, second + SMOOTHING**2 * mean + ADAM_EPS**2, 1))
    return torch.where(mean > 0, m / (1 - beta1**t) / root, 0), {"m": m, "v": v}


def differentiable(name: OptimizerName) -> Optimizer:
    """The optimizer of that name, as the outer loop goes back through it."""
    return smooth_adam if name == "adam" else OPTIMIZERS[name]
