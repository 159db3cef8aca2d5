"""RMSNorm with a backward pass of three operations, for a forward that is learned from.

Families spell their norms out, and autograd goes back through one in twelve operations: four tenths of a backward pass,
where launches are what it costs. Here the forward computes what the family's does, to the bit, and the backward pass
uses the one of LayerNorm, which PyTorch has fused. It is differentiable once, so the outer loop keeps the family's own.
x input, y output, w weight, D width; (..., D) each but w, (D,).
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .context import FastTerms, current
from .hooks import Hook


@dataclass(frozen=True)
class Formula:
    """One way to write y = w ∘ x rstd, with rstd = 1 / sqrt(mean(x²) + eps) in float32."""

    eps: float
    offset: float = 0.0  # w is what is stored plus this
    narrow_first: bool = False  # whether the input's dtype is returned to before the product with w, or after it

    def scale(self, weight: Tensor) -> Tensor:
        """w, of what is stored."""
        return weight.float() + self.offset if self.offset else weight

    def rstd(self, x: Tensor) -> Tensor:
        """(..., 1) float32."""
        return torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.eps)

    def __call__(self, x: Tensor, rstd: Tensor, scale: Tensor) -> Tensor:
        normed = x.float() * rstd
        return scale * normed.to(x.dtype) if self.narrow_first else (scale * normed).to(x.dtype)


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, zeros: Tensor, formula: Formula) -> Tensor:
        rstd, scale = formula.rstd(x), formula.scale(weight)
        ctx.save_for_backward(x, rstd, scale, zeros)
        return formula(x, rstd, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With a = w ∘ dy and x̂ = x rstd: dx = rstd (a - x̂ mean(a ∘ x̂)).

        LayerNorm's, at a mean of zero, is rstd (a - mean(a) - x̂ mean(a ∘ x̂)).
        """
        x, rstd, scale, zeros = ctx.saved_tensors
        a, width, wide = gradient.float(), x.shape[-1], scale.float()
        of_x = torch.ops.aten.native_layer_norm_backward(
            a, x.float(), [width], zeros, rstd, wide, None, [True, False, False]
        )[0]
        return of_x.addcmul_((a @ wide)[..., None], rstd, value=1 / width).to(x.dtype), None, None, None


class RMSNorm(Hook):
    """Stands on a norm, and takes its place in a forward that is learned from."""

    def __init__(self, path: str, formula: Formula) -> None:
        self.path, self.formula = path, formula

    def connect(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.withhold_input)
        module.register_forward_hook(self.normalise)

    def withhold_input(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: the family's own formula has nothing to compute."""
        terms = _recording()
        if terms is None or not args or not _is_plain(args[0], module.get_parameter("weight")):
            return None
        terms.withheld[self.path] = args[0]
        return (args[0].detach()[..., :0, :], *args[1:])

    def normalise(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """Forward hook: the norm of what was withheld."""
        terms = _recording()
        x = None if terms is None else terms.withheld.pop(self.path, None)
        if terms is None or x is None:
            return None
        shape = (*x.shape[:-1], 1)
        if (shape, x.device) not in terms.zeros:
            terms.zeros[shape, x.device] = torch.zeros(shape, dtype=torch.float32, device=x.device)
        y: Tensor = _Normalised.apply(x, module.get_parameter("weight"), terms.zeros[shape, x.device], self.formula)
        return y


def rms_norms(model: nn.Module, first: nn.Module) -> list[RMSNorm]:
    """Of the modules behind `first`, those whose formula is known."""
    found: list[RMSNorm] = []
    known: dict[tuple[Any, ...], Formula | None] = {}
    behind = dropwhile(lambda named: named[1] is not first, model.named_modules())
    for path, module in behind:
        eps = vars(module).get("variance_epsilon", vars(module).get("eps"))  # families name it either way
        if isinstance(eps, float):
            kind = type(module), eps, tuple(module._parameters)  # Gemma 3n's may have no weight
            if kind not in known:
                known[kind] = _formula(module, eps)
            formula = known[kind]
            if formula is not None:
                found.append(RMSNorm(path, formula))
    return found


def _formula(module: nn.Module, eps: float) -> Formula | None:
    """The one that gives the very same as the module, in every dtype."""
    own = type(module).__module__.startswith("torch.")  # PyTorch's has a fused form already
    more = [*module.children(), *module.buffers(), *list(inspect.signature(type(module).forward).parameters)[2:]]
    if own or more or list(module._parameters) != ["weight"] or module.get_parameter("weight").ndim != 1:
        return None
    ways = [Formula(eps, narrow_first=True), Formula(eps), Formula(eps, offset=1.0)]
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    return next((way for way in ways if all(_agrees(module, way, dtype) for dtype in dtypes)), None)


def _agrees(module: nn.Module, formula: Formula, dtype: torch.dtype) -> bool:
    """Whether both give the same for some input. The module's weight may not be there yet: a copy has another."""
    width = module.get_parameter("weight").shape[0]
    twin = copy.copy(module)
    with torch.no_grad():
        x = torch.linspace(1, 90, 3 * width, device="cpu").sin().view(3, width).to(dtype)
        weight = x[0].flip(0)
        vars(twin)["_parameters"] = {"weight": nn.Parameter(weight)}
        y: Tensor = type(module).forward(twin, x)
        return y.dtype == dtype and torch.equal(y, formula(x, formula.rstd(x), formula.scale(weight)))


def _recording() -> FastTerms | None:
    """The fast terms of a forward whose graph is being kept, for one step of the inner loop."""
    context = current()
    terms = None if context is None else context.fast
    return terms if terms is not None and terms.record and not terms.own_norms and torch.is_grad_enabled() else None


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether the formula, as it was compared, is what would be computed, and its gradient is wanted."""
    here = type(weight) is nn.Parameter and weight.device == x.device  # no shard (FSDP2), and not offloaded
    return here and x.requires_grad and x.dtype == weight.dtype and not torch.is_autocast_enabled(x.device.type)
