"""sgd, normalized_sgd, adam and muon as pure functions: (gradient, state, step) -> (direction, state).

Each exists twice: the pure form, `direction`, which is the definition and what the outer loop differentiates, and
`step_`, which updates weights and state in place, for use. That one writes a row in a single operation, which also
makes `done`, a zero, another number: so it can be told whether an interrupt came before or after.
A direction has the size of a step at learning rate 1 and is subtracted.
All are batch-first (B rows, each its own optimizer) and treat every fast weight as a matrix (B, O, I).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ..config import INNER_OPTIMIZERS
from .registry import register_inner_optimizer

State = dict[str, Tensor]
Optimizer = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
MUON_MOMENTUM = 0.9
NORMALIZED_BETA, NORMALIZED_EPS = 0.9, 1e-15
# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, Muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


class InnerOptimizer(Protocol):
    """What an inner optimizer has to say. It keeps no tensors itself; what it carries is part of a row's state."""

    slots: ClassVar[tuple[str, ...]] = ()
    """Tensors carried per fast weight, each of `slot_shape`, zero at the start."""

    relative_lr: ClassVar[float]
    """`TTTConfig.relative_lr`, where neither that nor `inner_lr` is given."""

    def slot_shape(self, slot: str, weight: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of what a slot carries for a weight of this shape."""
        return weight

    def carried(self, weight: tuple[int, int]) -> int:
        """How many numbers are carried for a weight of this shape: its own and those of its slots."""
        shapes = [weight, *(self.slot_shape(slot, weight) for slot in self.slots)]
        return sum(rows * columns for rows, columns in shapes)

    @abstractmethod
    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        """The step at learning rate 1, which is subtracted, and the new state. Changes none of its arguments.

        Parameters
        ----------
        gradient : (B, O, I), of one fast weight.
        state : its `slots`, (B, rows, columns) each.
        step : (B,) the number of this step in each row, from 1.
        """

    def step_(
        self, weight: Tensor, gradient: Tensor, state: State, step: Tensor, lr: Tensor, skipped: Tensor, done: Tensor
    ) -> None:
        """weight - lr · direction in place, and the new state.

        Parameters
        ----------
        weight, gradient, state : as in `direction`. In rows that are skipped a gradient may be NaN.
        step : (B,) float32.
        lr : scalar.
        skipped : (B,) float32, 1 for the rows that stay as they are, else 0.
        done : (B,) zeros, which are set to another number.
        """
        direction, new = self.direction(gradient, state, step)
        written = [*(state[slot] for slot in self.slots), weight]
        values = [*(new[slot] for slot in self.slots), weight - lr * direction]
        stays = skipped[:, None, None] > 0
        kept = [torch.where(stays, old, value) for old, value in zip(written, values)]
        torch._foreach_copy_([*written, done], [*kept, torch.ones_like(done)])

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

    def absolute_lr(self, relative: float, unit: Tensor) -> Tensor:
        """The gradient of V is `unit` times that of W, which sgd sees as well."""
        return relative * unit**2


@register_inner_optimizer("normalized_sgd")
class NormalizedSGD(InnerOptimizer):
    """The gradient over the root of a running mean of its square: one number for the whole matrix.

    Adam's rate without Adam's state: the direction is that of sgd, and does not depend on the scale of a gradient.
    """

    slots = ("v",)
    relative_lr = 3e-3

    def slot_shape(self, slot: str, weight: tuple[int, int]) -> tuple[int, int]:
        return (1, 1)

    def direction(self, gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
        t = step.view(-1, 1, 1).to(gradient.dtype)
        v = torch.lerp((gradient * gradient).mean((-2, -1), keepdim=True), state["v"], NORMALIZED_BETA)
        root = torch.sqrt(v / (1 - NORMALIZED_BETA**t) + NORMALIZED_EPS**2)
        return gradient / root, {"v": v}


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

    def step_(
        self, weight: Tensor, gradient: Tensor, state: State, step: Tensor, lr: Tensor, skipped: Tensor, done: Tensor
    ) -> None:
        """PyTorch's fused Adam: one pass over weight, gradient and both moments, which it takes to be contiguous.

        A row that is skipped it takes for one in which scaled gradients had overflowed. `done` is the first moment of
        a scalar beside the row, whose gradient is the number of the step.
        """
        if torch.compiler.is_compiling():  # the fused form needs data, which a trace has none of
            return super().step_(weight, gradient, state, step, lr, skipped, done)
        beta1, beta2 = ADAM_BETAS
        gradient, of_scalar, unused = gradient.contiguous(), step.to(done.dtype), torch.empty_like(done)
        m, v = state["m"], state["v"]
        for row in range(weight.shape[0]):
            torch._fused_adam_(
                [weight[row], unused[row]], [gradient[row], of_scalar[row]], [m[row], done[row]], [v[row], unused[row]],
                [], [step[row], step[row]], lr=lr, beta1=beta1, beta2=beta2, weight_decay=0.0, eps=ADAM_EPS,
                amsgrad=False, maximize=False, grad_scale=None, found_inf=skipped[row],
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
