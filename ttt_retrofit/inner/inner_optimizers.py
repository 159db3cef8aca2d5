"""sgd, adam and muon as pure functions: (gradient, state, step) -> (direction, state).

Each exists twice: the pure form, which is the definition and what the outer loop differentiates, and a form that
updates weights and state in place, for use. That one writes in a single operation, which also makes `done`, a zero,
another number: so it can be told whether an interrupt came before or after.
A direction has the size of a step at learning rate 1 and is subtracted.
All are batch-first (B rows, each its own optimizer) and treat every fast weight as a matrix (B, O, I).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim.adam import adam as torch_adam

from ..config import OptimizerName

State = dict[str, Tensor]
Optimizer = Callable[[Tensor, State, Tensor], tuple[Tensor, State]]
InPlace = Callable[[Tensor, Tensor, State, int, float, Tensor], None]

ADAM_BETAS = (0.9, 0.999)
ADAM_EPS = 1e-8
MUON_MOMENTUM = 0.9
# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, Muon).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NEWTON_SCHULZ_STEPS = 5


def state_names(name: OptimizerName) -> tuple[str, ...]:
    """Tensors an optimizer carries per fast weight, each of that weight's shape, zero at the start."""
    return {"sgd": (), "adam": ("m", "v"), "muon": ("m",)}[name]


def absolute_lr(name: OptimizerName, relative: float, unit: Tensor) -> Tensor:
    """The rate for W = unit · V at which the optimizer would move V at the rate `relative`.

    The directions of adam and muon do not depend on the scale of a gradient, so a step is as many times larger as W is.
    The gradient of V is `unit` times that of W, which sgd sees as well.
    """
    return relative * (unit**2 if name == "sgd" else unit)


def sgd(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """The gradient itself (TTT-E2E §2.2, whose joint clip is replaced here by the trust region)."""
    return gradient, {}


def adam(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """Adam with bias correction (Kingma & Ba 2015, algorithm 1). step: (B,) counts from 1."""
    beta1, beta2 = ADAM_BETAS
    t = step.view(-1, 1, 1).to(gradient.dtype)
    m = torch.lerp(gradient, state["m"], beta1)
    v = torch.lerp(gradient * gradient, state["v"], beta2)
    # v is exactly zero where no gradient ever came; sqrt has no finite derivative there, so the eps goes inside.
    root = torch.sqrt(v / (1 - beta2**t) + ADAM_EPS**2)
    return m / (1 - beta1**t) / root, {"m": m, "v": v}


def muon(gradient: Tensor, state: State, step: Tensor) -> tuple[Tensor, State]:
    """Momentum, orthogonalised (Jordan et al. 2024): every singular value of the direction is about 1."""
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


OPTIMIZERS: dict[OptimizerName, Optimizer] = {"sgd": sgd, "adam": adam, "muon": muon}


def sgd_(weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
    torch._foreach_add_([weight, done], [-lr * gradient, torch.ones_like(done)])


def adam_(weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
    """PyTorch's fused Adam: one pass over weight, gradient and both moments, which it takes to be contiguous."""
    beta1, beta2 = ADAM_BETAS
    before = [torch.full((), step - 1.0, device=weight.device) for _ in range(2)]
    one = torch.ones_like(done)
    torch_adam(
        [weight, one.clone()], [gradient.contiguous(), one], [state["m"], done], [state["v"], one.clone()], [], before,
        fused=True, amsgrad=False, beta1=beta1, beta2=beta2, lr=lr, weight_decay=0.0, eps=ADAM_EPS, maximize=False,
    )  # fmt: skip


def muon_(weight: Tensor, gradient: Tensor, state: State, step: int, lr: float, done: Tensor) -> None:
    direction, new = muon(gradient, state, torch.full((1,), step, device=weight.device))
    torch._foreach_copy_([state["m"], weight, done], [new["m"], weight - lr * direction, torch.ones_like(done)])


IN_PLACE: dict[OptimizerName, InPlace] = {"sgd": sgd_, "adam": adam_, "muon": muon_}
