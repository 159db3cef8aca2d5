"""The TTT MLP: `mlp.ttt` holds what the outer loop may tune, and a hook adds each row's fast weights.

The base's weights are never read while reading. Fast weights are not stored here: they belong to a sequence and arrive
in the `ForwardContext`, for the time of one forward.
B batch rows, T tokens, S sites, I in features, O out features.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from transformers import PreTrainedModel
from transformers.utils import logging

from ..config import TTTConfig
from ..errors import UnsupportedModelError
from .calibration import calibration_inputs
from .context import FastTerms, current
from .discovery import Site, decoder_layers, features, is_projection, module_at, without_adapters
from .fast_weights import Delta, FastWeights, Weights, norms
from .hooks import Hook
from .inner_loop import SiteConstants
from .inner_optimizers import Adam, inner_optimizer

logger = logging.get_logger(__name__)

# Random vectors that estimate the norm of a projection; the relative error is about sqrt(2 / (probes * rank)).
PROBES = 256
SAMPLED = 64  # values of a matrix that stand for it
LARGE_STEP = 8  # times the rate that was found to suit: at twice that rate reading still gains, fourteen ruin it
TTT = "ttt"
FOLDED = "folded"
INTEGER_MODULES = (
    "torch.ao.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
)  # torch's own quantization, of weights to integers


class _Link:
    """A module that a site refers to without owning it: no submodule, and copied only with the whole model."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __deepcopy__(self, memo: dict[int, Any]) -> _Link:
        return _Link(memo.get(id(self.module), self.module))


class TTTSite(Hook, nn.Module):
    """What is stored for one site: where its fast weights start, its inner learning rate, the norm it is measured by.

    Bare parameters, never `nn.Linear`: quantizers and `target_modules="all-linear"` must pass them by.
    """

    def __init__(self, site: Site, kind: FastWeights, device: torch.device | str | None = None) -> None:
        super().__init__()
        self.site = site
        self.path = site.path
        self.kind = kind
        self._hooked: _Link | None = None
        self.log_lr = nn.Parameter(torch.zeros((), dtype=torch.float32, device=device))
        self.register_buffer("base_norm", torch.ones((), dtype=torch.float32, device=device))
        for name in kind.learned_start:
            empty = torch.zeros(kind.shapes(site)[name], dtype=torch.float32, device=device)
            self.register_parameter(f"start_{name}", nn.Parameter(empty))
        for name, shape in kind.fixed_shapes(site).items():
            self.register_buffer(f"fixed_{name}", torch.zeros(shape, dtype=torch.float32, device=device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TTTSite:
        """`model.half()` and the like halve the base; small inner steps would be lost in 16 bits."""

        def keep_wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            halved = moved.dtype in (torch.float16, torch.bfloat16) and tensor.dtype != moved.dtype
            return tensor.to(moved.device) if halved else moved

        super()._apply(keep_wide, recurse)
        return self

    @property
    def unit(self) -> Tensor:
        """What a step is measured in: a scalar, of the scale of the projection's entries."""
        return self.kind.unit(self.site, self.get_buffer("base_norm"))

    @property
    def start(self) -> Weights:
        """Where its fast weights start, of those that do not start at zero."""
        return {name: self.get_parameter(f"start_{name}") for name in self.kind.learned_start}

    @property
    def fixed(self) -> Weights:
        """The matrices that no step changes, shared by all rows: (1, rows, columns) each."""
        return {name: self.get_buffer(f"fixed_{name}")[None] for name in self.kind.fixed}

    @torch.no_grad()
    def initialise(self, base_norm: Tensor, generator: torch.Generator) -> None:
        """Draw the starts; base_norm: the Frobenius norm by which changes and steps are measured."""
        self.log_lr.zero_()
        for name, value in self.kind.start(self.site, generator).items():
            self.get_parameter(f"start_{name}").copy_(value)
        self.get_buffer("base_norm").copy_(base_norm)

    def module_in(self, model: nn.Module) -> nn.Module:
        """The projection (or block) at the path, which must still be what was converted, or PEFT's adapter around it.

        Its output receives the fast term.
        """
        module, place = module_at(model, self.path), self.site
        inside = without_adapters(module)
        if place.role == "block":
            return module
        width = place.out_features if not place.fused else 2 * place.out_features
        if not is_projection(inside) or features(inside) != (place.in_features, width):
            raise UnsupportedModelError(
                f"At {place.path} stands a {type(inside).__module__}.{type(inside).__name__} now, where a projection "
                f"from {place.in_features} to {width} features was converted. Put one of that size there (a "
                "torch.nn.Linear, one of bitsandbytes, with or without a PEFT adapter), or unwrap() before modules are "
                "exchanged and wrap() afterwards."
            )
        return module

    def connect(self, module: nn.Module) -> None:
        self._hooked = _Link(module)
        module.register_forward_pre_hook(self.withhold_input)
        module.register_forward_hook(self.add_term)

    @property
    def _dense(self) -> nn.Linear | None:
        """The projection, where it is a plain matrix that this site adds another to."""
        module = None if self._hooked is None else self._hooked.module
        matrix = type(module) is nn.Linear and type(self.kind) is Delta and not self.site.fused
        return module if matrix and isinstance(module, nn.Linear) else None

    def foldable(self, rows: int) -> Tensor | None:
        """The base's matrix (O, I), where the fast matrix of a single row may be added to it outright.

        One product then does the work of two, in the backward pass as well. Only from float32 on: in bfloat16 the sum
        would round most of an update away.
        """
        dense = self._dense
        if rows != 1 or dense is None:
            return None
        weight = dense.weight
        if type(weight) is not nn.Parameter or weight.is_meta:  # a shard of it (FSDP2), or offloaded
            return None
        return weight.detach() if weight.dtype in (torch.float32, torch.float64) else None

    def withhold_input(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Forward pre-hook: where a folded matrix stands ready, the base's own product has nothing to compute."""
        terms = _terms()
        if terms is None or FOLDED not in terms.weights.get(self.site.name, {}):
            return None
        terms.withheld[self.site.name] = args[0]
        return (args[0][..., :0, :], *args[1:])

    def add_term(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Forward hook of the projection (or block): its output plus the fast term of each row."""
        terms = _terms()
        if terms is None:
            return None
        weights = terms.weights.get(self.site.name)
        if weights is None:
            return None
        terms.added.add(self.site.name)
        if terms.record:
            torch.set_grad_enabled(True)
        given = terms.withheld.pop(self.site.name) if FOLDED in weights else args[0]
        if terms.seen is not None:
            terms.seen[self.site.name] = given.detach().reshape(terms.rows, -1, self.site.in_features)
        if FOLDED in weights:
            dense = self._dense
            assert dense is not None
            return F.linear(given, weights[FOLDED], dense.bias)
        hidden = output[0] if isinstance(output, tuple) else output
        site, first = self.site, self.site.offset
        x = given.reshape(terms.rows, -1, site.in_features)  # experts see (B * T, I)
        onto = hidden.reshape(terms.rows, -1, hidden.shape[-1])
        cast = {name: weight.to(x.dtype) for name, weight in (weights | self.fixed).items()}
        if site.fused:
            last = first + site.out_features
            changed = self.kind(onto[..., first:last], x, cast)
            onto = torch.cat([onto[..., :first], changed, onto[..., last:]], dim=-1)
        else:
            onto = self.kind(onto, x, cast)
        hidden = onto.view(hidden.shape)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def rates(sites: list[TTTSite], ttt: TTTConfig) -> Tensor:
    """(S,) the inner learning rates: what is configured times what the outer loop learned."""
    lr, relative = ttt.step_size
    learned = torch.stack([site.log_lr for site in sites]).exp()
    if not relative:
        return lr * learned
    return inner_optimizer(ttt.inner_optimizer).absolute_lr(lr, _units(sites)) * learned


def _units(sites: list[TTTSite]) -> Tensor:
    """(S,) the `unit` of each, those of the same shape at once."""
    alike: dict[tuple[int, int], list[TTTSite]] = defaultdict(list)
    for site in sites:
        alike[site.site.out_features, site.site.in_features].append(site)
    units: dict[str, Tensor] = {}
    for group in alike.values():
        base = torch.stack([site.get_buffer("base_norm") for site in group])
        found = group[0].kind.unit(group[0].site, base).expand_as(base)
        units |= {site.site.name: unit for site, unit in zip(group, found)}
    return torch.stack([units[site.site.name] for site in sites])


def constants(sites: list[TTTSite], ttt: TTTConfig) -> dict[str, SiteConstants]:
    """What the inner loop needs of each site, by name; tensors carry gradients to the outer loop, if it records."""
    found = {}
    for site, lr, own in zip(sites, rates(sites, ttt), _start_norms(sites)):
        base = site.get_buffer("base_norm")
        found[site.site.name] = SiteConstants(site.start, {"base": base} | own, lr)
    return found


def _terms() -> FastTerms | None:
    context = current()
    return None if context is None else context.fast


def _start_norms(sites: list[TTTSite]) -> list[dict[str, Tensor]]:
    """The norms of the learned starts of each site, by name; of one that is zero that of the projection."""
    starts = [value[None] for site in sites for value in site.start.values()]
    if not starts:
        return [{} for _ in sites]
    base = torch.stack([site.get_buffer("base_norm") for site in sites])[:, None]
    found = norms(starts).view(len(sites), -1)
    scale = torch.where(found > 0, found, base)
    return [dict(zip(site.start, own)) for site, own in zip(sites, scale)]


def projection_norm(projection: nn.Module, site: Site, generator: torch.Generator) -> Tensor:
    """Frobenius norm of a projection, from its outputs alone: ‖W‖² = E‖W z‖² for z ~ N(0, I) (Hutchinson).

    Works for quantized, adapted and offloaded projections, whose `.weight` is not the matrix.
    """
    parameter = next(projection.parameters())
    dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
    # An offloaded projection brings its weight, and the probes, to where it computes.
    device = "cpu" if parameter.is_meta else parameter.device
    probes = torch.randn(PROBES, site.in_features, generator=generator, device="cpu").to(device, dtype)
    bias = projection(torch.zeros_like(probes[:1]))
    response = (projection(probes) - bias).float()
    if site.fused:
        response = response[:, site.offset : site.offset + site.out_features]
    return torch.sqrt(response.square().sum(1).mean())


def add_sites(model: PreTrainedModel, sites: list[Site], kind: FastWeights) -> None:
    """Give each MLP its `ttt` module. Hooks are set by `hooks.bind`."""
    for site in sites:
        container = model.get_submodule(site.container)
        if TTT not in container._modules:
            container.add_module(TTT, nn.Module().train(model.training))
        device = next(model.get_submodule(site.path).parameters()).device
        assert site.key not in container.get_submodule(TTT)._modules, f"two sites {site.name}"
        container.get_submodule(TTT).add_module(site.key, TTTSite(site, kind, device).train(model.training))


def ttt_sites(model: nn.Module) -> list[TTTSite]:
    """The attached sites, in forward order."""
    places = {module.site.name: module.site for module in model.modules() if isinstance(module, TTTSite)}
    return [active_site(model, place) for place in places.values()]


def active_site(model: nn.Module, place: Site) -> TTTSite:
    """The site at a place. PEFT's `modules_to_save` keeps a trained copy beside it, and answers with the active one."""
    site = getattr(module_at(model, f"{place.container}.{TTT}"), place.key)
    assert isinstance(site, TTTSite)
    return site


def check_modules(model: PreTrainedModel) -> None:
    """Raise where a module would silently pass no gradient, or pass hooks by."""
    for path, module in model.named_modules():
        if path and (module._compiled_call_impl is not None or isinstance(module, OptimizedModule)):
            _check_compiled(model, path)
        if type(module).__module__.startswith(INTEGER_MODULES):
            raise UnsupportedModelError(
                f"{path} is a {type(module).__module__}.{type(module).__name__}, through which no gradient passes: "
                "fast weights would learn nothing, or wrongly. Quantize with bitsandbytes or torchao instead, by "
                "quantization_config= when the model is loaded."
            )


def _check_compiled(model: PreTrainedModel, path: str) -> None:
    """Raise where what is compiled by itself has decoder layers in it, or is in one.

    torch compiles layers that are alike once, and does not look whether the next one has the same hooks.
    """
    layers, _ = decoder_layers(model)
    if f"{path}.".startswith(f"{layers}.") or f"{layers}.".startswith(f"{path}."):
        raise UnsupportedModelError(
            f"{path} is compiled by itself. Compiled layers pass by the hooks through which fast weights and memories "
            "are added. Leave them as they are, or compile the whole model, torch.compile(model), which then runs as "
            "if it were not."
        )


def keep_gradients(model: nn.Module) -> None:
    """Keep bitsandbytes from packing 4-bit weights for AVX-512, a form through which gradients are silently zero."""
    for module in model.modules():
        if vars(module).get("support_avx512bf16_for_cpu"):
            module.state_dict()  # unpacks a weight that an earlier forward has packed
            module.__dict__["support_avx512bf16_for_cpu"] = False


def remove_sites(model: PreTrainedModel) -> None:
    """Remove the `ttt` modules: the base as it was."""
    for container in {site.site.container for site in ttt_sites(model)}:
        del model.get_submodule(container)._modules[TTT]


def initialise(model: PreTrainedModel, seed: int = 0) -> None:
    """Fresh starts, norms and calibrated matrices of all sites, the same for the same base and configuration."""
    generator = torch.Generator("cpu").manual_seed(seed)
    with torch.inference_mode(False), torch.device("cpu"):  # what is drawn goes to where the model is
        sites = ttt_sites(model)
        for site in sites:
            site.initialise(_measured_norm(model, site.site, generator), generator)
        if any(site.kind.fixed for site in sites):
            _calibrate(model, sites, generator)


def _calibrate(model: PreTrainedModel, sites: list[TTTSite], generator: torch.Generator) -> None:
    modules = {site.path: site.module_in(model) for site in sites}
    for fixed in (value for site in sites for value in site.fixed.values()):
        fixed.zero_()  # memory that nobody wrote may hold NaN, and 0 · NaN is no 0
    for path, inputs in calibration_inputs(model, modules, generator):
        for site in sites:
            if site.path == path:  # gate and up may be one projection
                for name, value in site.kind.calibrated(site.site, inputs, generator).items():
                    site.get_buffer(f"fixed_{name}").copy_(value)


def fixed_digest(sites: list[TTTSite]) -> str:
    """Names the matrices that no step changes, by some of their values; empty where there are none."""
    digest = hashlib.sha256()
    for site in sites:
        for value in site.fixed.values():
            digest.update(value.flatten()[:: 1 + value.numel() // SAMPLED].cpu().numpy().tobytes())
    return digest.hexdigest() if any(site.kind.fixed for site in sites) else ""


def warn_of_large_steps(sites: list[TTTSite], ttt: TTTConfig) -> None:
    """Say so where an absolute rate that suits one model would tear up this one, whose weights are smaller."""
    if ttt.inner_lr is None or ttt.inner_optimizer != "adam" or not sites:
        return
    unit = min(float(site.unit) for site in sites)
    if ttt.inner_lr > LARGE_STEP * Adam.relative_lr * unit:
        logger.warning(
            "inner_lr=%g moves every entry of a matrix by %.2g times their root mean square at each chunk, where %g "
            "was found to suit. Leave inner_lr out, or set relative_lr.",
            *(ttt.inner_lr, ttt.inner_lr / unit, Adam.relative_lr),
        )


def _measured_norm(model: PreTrainedModel, site: Site, generator: torch.Generator) -> Tensor:
    """That of the projection, of a block's way out, or, for a block of experts, of a fresh matrix beside it."""
    place = site.inside if site.role == "block" else site
    if place is None:
        return torch.tensor(site.out_features**0.5, device="cpu")
    return projection_norm(model.get_submodule(place.path), place, generator)
