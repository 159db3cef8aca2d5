"""sgd, adam and muon as pure functions: (gradient, state, step) -> (direction, state).

Each exists twice: the pure form, `direction`, which is the definition and what the outer loop differentiates, and
`step_`, which updates weights and state in place, for use. That one writes in a single operation, which also makes
`done`, a zero, another number: so it can be told whether an interrupt came before or after.
A direction has the size of a step at learning rate 1 and is subtracted.
All are batch-first (B rows, each its own optimizer) and treat every fast weight as a matrix (B, O, I).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam

from ..config import INNER_OPTIMIZERS
from .registry import register_inner_optimizer

State = dict[str, Tensor]
Optimizer = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
MUON_MOMENTUM = 0.9
# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, Muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class InnerOptimizer(Protocol):
    """What an inner optimizer has to say. It keeps no tensors itself; what it carries is part of a row's state."""

    slots: ClassVar[tuple[str, ...]] = ()
    """Tensors carried per fast weight, each of that weight's shape, zero at the start."""

    relative_lr: ClassVar[float]
    """`TTTConfig.relative_lr`, where neither that nor `inner_lr` is given."""

    @abstractmethod
    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        """The step at learning rate 1, which is subtracted, and the new state. Changes none of its arguments.

        Parameters
        ----------
        gradient : (B, O, I), of one fast weight.
        state : its `slots`, (B, O, I) each.
        step : (B,) the number of this step in each row, from 1.
        """

    def step_(self, weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
        """weight - lr · direction in place, and the new state; every row is at the same `step`. Sets `done`."""
        direction, new = self.direction(gradient, state, torch.full((1,), step, device=weight.device))
        written = [*(state[slot] for slot in self.slots), weight, done]
        values = [*(new[slot] for slot in self.slots), weight - lr * direction, torch.ones_like(done)]
        torch._foreach_copy_(written, values)

    def absolute_lr(self, relative: float, unit: Tensor) -> Tensor:
        """The rate for W = unit · V at which the optimizer would move V at the rate `relative`.

        A direction that does not depend on the scale of a gradient makes a step as many times larger as W is.
        """
        return relative * unit


# Each `relative_lr` is one on which two models agree whose matrices differ by a factor of fourteen
# (`docs/research-log/inner-loop.md`).
@register_inner_optimizer("sgd")
class SGD(InnerOptimizer):
    """The gradient itself (TTT-E2E §2.2, whose joint clip is replaced here by the trust region)."""

    relative_lr = 55.0

    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        return gradient, {}

    def step_(self, weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
        torch._foreach_add_([weight, done], [-lr * gradient, torch.ones_like(done)])

    def absolute_lr(self, relative: float, unit: Tensor) -> Tensor:
        """The gradient of V is `unit` times that of W, which sgd sees as well."""
        return relative * unit**2


@register_inner_optimizer("adam")
class Adam(InnerOptimizer):
    """Adam with bias correction (Kingma & Ba 2015, algorithm 1)."""

    slots = ("m", "v")
    relative_lr = 2.6e-3

    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        beta1, beta2 = ADAM_BETAS
        t = step.view(-1, 1, 1).to(gradient.dtype)
        m = torch.lerp(gradient, state["m"], beta1)
        v = torch.lerp(gradient * gradient, state["v"], beta2)
        # v is exactly zero where no gradient ever came; sqrt has no finite derivative there, so the eps goes inside.
        root = torch.sqrt(v / (1 - beta2**t) + ADAM_EPS**2)
        return m / (1 - beta1**t) / root, {"m": m, "v": v}

    def step_(self, weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
        """PyTorch's fused Adam: one pass over weight, gradient and both moments, which it takes to be contiguous."""
        beta1, beta2 = ADAM_BETAS
        before = [torch.full((), step - 1.0, device=weight.device) for _ in range(2)]
        one = torch.ones_like(done)
        torch_adam(
            [weight, one.clone()], [gradient.contiguous(), one], [state["m"], done], [state["v"], one.clone()], [],
            before, fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=lr, weight_decay=0.0, eps=ADAM_EPS,
            maximize=False,
        )  # fmt: skip


@register_inner_optimizer("muon")
class Muon(InnerOptimizer):
    """Momentum, orthogonalised (Jordan et al. 2024): every singular value of the direction is about 1."""

    slots = ("m",)
    relative_lr = 2.6e-2

    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        m = MUON_MOMENTUM * state["m"] + gradient
        rows, columns = m.shape[-2:]
        return orthogonalise(m) * max(1.0, rows / columns) ** 0.5, {"m": m}


def orthogonalise(matrix: Tensor) -> Tensor:
    """Newton-Schulz iteration towards the nearest semi-orthogonal matrix. (B, O, I) -> (B, O, I)."""
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[-2] > matrix.shape[-1]
    x = matrix.mT if tall else matrix
    square = (x * x).sum((-2, -1), keepdim=True)
    # A matrix that no gradient ever reached is a constant: at zero the quotient's derivative is 1e7.
    x = torch.where(square > 0, x / torch.sqrt(square + 1e-14), 0)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def inner_optimizer(name: str) -> InnerOptimizer:
    """The optimizer of that name."""
    optimizer: InnerOptimizer = INNER_OPTIMIZERS.get(name)()
    return optimizer
