"""What the outer loop trains: starts of fast weights, log inner rates, and ordinary parameters of the model.

A start is a stored parameter for `lora` and `prime`. A full matrix Δ that starts at Δ₀ beside a projection W is the
projection W + Δ₀ with Δ starting at zero, so the start of `delta` *is* the projection's weight: nothing new is stored,
read or saved.
B batch rows, O out features, I in features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..errors import ConfigError
from ..inner.discovery import Site, decoder_layers, without_lora
from ..inner.fast_state import FastState
from ..inner.fast_weights import Delta, Weights
from ..inner.layer import TTT, TTTSite
from ..inner.learning import InnerStep
from .choices import OUTER_PARAMETERS


@dataclass(frozen=True)
class Start:
    """The parameter in which one fast weight of one site starts, or the projection that stands for it."""

    parameter: nn.Parameter
    site: Site
    stored: bool  # False: a projection
    transposed: bool = False  # GPT-2's Conv1D keeps (I, O)

    def layout(self, gradient: Tensor) -> Tensor:
        """A gradient of the fast weight (O, I) as one of the parameter."""
        if self.stored:
            return gradient
        if self.site.fused:
            whole = torch.zeros_like(self.parameter, dtype=gradient.dtype)
            whole[self.site.offset : self.site.offset + self.site.out_features] = gradient
            return whole
        return gradient.T if self.transposed else gradient


@dataclass(frozen=True)
class OuterParameters:
    """Everything that is trained, by how its gradient is found."""

    starts: dict[str, dict[str, Start]]  # by site and name of the weight
    rates: dict[str, TTTSite]  # the sites whose log_lr is trained
    others: tuple[nn.Parameter, ...]  # what any graph gives a gradient of
    lowest: int  # the first decoder layer whose keys and values depend on something trained
    below: list[nn.Module]  # the decoder layers that depend on nothing trained

    @property
    def all(self) -> list[nn.Parameter]:
        starts = [start.parameter for by_name in self.starts.values() for start in by_name.values()]
        rates = [site.log_lr for site in self.rates.values()]
        return list({id(p): p for p in (*starts, *rates, *self.others)}.values())

    def of_step(self, site: str) -> list[nn.Parameter]:
        """What the step of a site depends on: its rate, and its starts, towards which the trust region shrinks."""
        rate = [self.rates[site].log_lr] if site in self.rates else []
        return [*rate, *(start.parameter for start in self.starts.get(site, {}).values() if start.stored)]

    @property
    def folded(self) -> bool:
        """Whether no projection is trained by itself, so that fast matrices may be folded into theirs."""
        return not self.others

    @property
    def direct(self) -> tuple[nn.Parameter, ...]:
        """What the forward of a chunk reads by itself, and not through its fast weights.

        A stored start is among them for the sinks, which are read with it whenever they move along.
        """
        return (*(s.parameter for by_name in self.starts.values() for s in by_name.values() if s.stored), *self.others)


def choose(model: Any, names: Sequence[str]) -> OuterParameters:
    """Freeze `model`, a converted one, but for what `names` (some of `OUTER_PARAMETERS`) say.

    Raises
    ------
    ConfigError
        For unknown names, LoRA that is not there, or the start of `delta` on a quantized projection.
    """
    unknown = sorted(set(names) - set(OUTER_PARAMETERS))
    if unknown or not names:
        raise ConfigError(f"outer_parameters={list(names)}: expected some of {list(OUTER_PARAMETERS)}.")
    everything = "everything" in names
    others = {
        name: parameter
        for name, parameter in model.named_parameters()
        if (everything and f".{TTT}." not in name) or ("lora" in names and "lora_" in name)
        if parameter.is_floating_point()
    }
    if "lora" in names and not any("lora_" in name for name in others):
        raise ConfigError(
            "outer_parameters has 'lora', but the model carries no LoRA. Wrap it, then add one with "
            "peft.get_peft_model(model, LoraConfig(..., modules_to_save=['ttt']))."
        )
    starts: dict[str, dict[str, Start]] = {}
    rates: dict[str, TTTSite] = {}
    for site in model.sites:
        if everything or "start" in names:
            stored = {
                key: Start(site.get_parameter(f"start_{key}"), site.site, True) for key in site.kind.learned_start
            }
            if not stored and not everything:
                stored = {"delta": _folded_start(model, site)}
            starts[site.site.name] = stored
        if everything or "log_lr" in names:
            rates[site.site.name] = site
    first_site, lowest = min(site.site.layer for site in model.sites), _lowest(model, others)
    below = list(decoder_layers(model)[1][: min(first_site, lowest)])
    chosen = OuterParameters(starts, rates, tuple(others.values()), min(first_site + 1, lowest), below)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in chosen.all:
        parameter.requires_grad_(True)
    return chosen


def _folded_start(model: Any, of: TTTSite) -> Start:
    site = of.site
    if type(of.kind) is not Delta:
        raise ConfigError(
            f"outer_parameters has 'start', and fast weights of kind {model.ttt.fast_weights!r} have none: they start "
            "at zero. Take outer_parameters=['log_lr'], or 'everything'."
        )
    module = without_lora(model.get_submodule(site.path))
    if type(module) not in (nn.Linear, Conv1D):
        raise ConfigError(
            f"The start of fast weights of kind 'delta' is the projection itself, and {site.path} is a "
            f"{type(module).__name__}, which cannot be trained. Use fast_weights='lora' or 'prime', or "
            "outer_parameters=['log_lr'], with 'lora' where the model carries one."
        )
    return Start(module.weight, site, stored=False, transposed=type(module) is Conv1D)


def _lowest(model: Any, others: dict[str, nn.Parameter]) -> int:
    """The first decoder layer that depends on one of the parameters."""
    _, layers = decoder_layers(model)
    wanted = {id(parameter) for parameter in others.values()}
    held = [wanted & {id(parameter) for parameter in layer.parameters()} for layer in layers]
    if wanted - set().union(*held):
        return 0  # of no layer: an embedding, perhaps
    return min((index for index, some in enumerate(held) if some), default=len(layers))


@dataclass
class GradientSums:
    """Sums of the gradients of the outer loss, by parameter."""

    outer: OuterParameters
    by_parameter: dict[nn.Parameter, Tensor] = field(default_factory=dict)

    def add(self, parameter: nn.Parameter, gradient: Tensor | None) -> None:
        if gradient is None:
            return
        gradient = gradient.to(parameter.dtype)
        before = self.by_parameter.get(parameter)
        self.by_parameter[parameter] = gradient if before is None else before + gradient

    def add_direct(self, gradients: Sequence[Tensor | None], weight: float = 1.0) -> None:
        for parameter, gradient in zip(self.outer.direct, gradients):
            self.add(parameter, None if gradient is None else weight * gradient)

    def first_order(self, step: InnerStep, weight: float) -> None:
        """The loss of a chunk, whose weights are a start and a sum of steps in directions that are held constant.

        dL/dW₀ = g, and with W = W₀ - Σ exp(log_lr) dⱼ, dL/dlog_lr = ⟨g, W - W₀⟩. The trust region counts as constant.
        """
        gradients = {
            name: {key: weight * gradient for key, gradient in by_name.items()}
            for name, by_name in step.gradients.items()
        }
        self.at_start(gradients, stored=True)
        self.at_start(gradients, stored=False)
        self.along_steps(step.fast, gradients)
        self.add_direct(step.along, weight)

    def at_start(self, gradients: dict[str, Weights], stored: bool) -> None:
        """Gradients (B, O, I) of the fast weights, as those of the starts that are, or are not, stored."""
        for name, by_name in self.outer.starts.items():
            for key, start in by_name.items():
                if start.stored is stored:
                    self.add(start.parameter, start.layout(gradients[name][key].sum(0)))

    def along_steps(self, fast: FastState, gradients: dict[str, Weights]) -> None:
        """⟨g, W - W₀⟩ for every rate."""
        for name, site in self.outer.rates.items():
            total = torch.zeros_like(site.log_lr)
            for key, gradient in gradients[name].items():
                moved = fast.sites[name].weights[key]
                if key in site.kind.learned_start:
                    moved = moved - site.get_parameter(f"start_{key}").detach()
                total += (gradient * moved).sum()
            self.add(site.log_lr, total)
