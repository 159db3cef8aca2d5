"""Finds the MLP projections of any decoder, structurally, and explains what it refuses.

It knows the shape of a transformer (a list of layers; in each, projections that widen D to F and one that narrows F to
D) and nothing of families. D model width, F feed-forward width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from ..config import FAST_WEIGHTS, RANGES, ROLES, LayerSelection, TTTConfig
from ..errors import ConfigError, UnsupportedModelError

logger = logging.get_logger(__name__)

Role = Literal["gate", "up", "down", "block"]

# Two projections widen D to F in a gated MLP; only their names tell which one passes through the activation.
GATE_NAMES = ("gate", "w1", "wi_0")


@dataclass(frozen=True)
class Site:
    """One place where fast weights are added: a projection (or a slice of a fused one), or a whole MLP block."""

    layer: int  # index of the decoder layer
    role: Role
    path: str  # dotted name of the module whose output receives the fast term
    container: str  # dotted name of the module that will own the `ttt` parameters
    in_features: int
    out_features: int
    fused: bool = False  # the projection computes gate and up in one matrix, of which this is a half
    offset: int = 0  # where that half starts in the projection's output
    inside: Site | None = None  # of a dense block: the projection out of it, by which what is added is measured

    @property
    def key(self) -> str:
        """Name within the container; not the projection's, by which adapters and quantizers choose their targets."""
        return f"{self.role}_site"

    @property
    def name(self) -> str:
        """Unique name within the model."""
        return f"{self.container}.{self.key}"


@dataclass(frozen=True)
class MLP:
    layer: int
    container: str
    sites: tuple[Site, ...]


def find_sites(model: PreTrainedModel, config: TTTConfig) -> list[Site]:
    """The sites that `config` selects in `model`, in the order in which a forward pass meets them.

    Raises
    ------
    UnsupportedModelError
        When there is no list of decoder layers or no dense MLP, or a selected layer holds only experts. The message
        names the modules that were seen.
    ConfigError
        For layers out of range, roles or names that the MLPs lack, or a rank larger than a matrix.
    """
    prefix, layers = decoder_layers(model)
    hidden_size = model.config.get_text_config(decoder=True).hidden_size
    explicit = isinstance(config.layers, tuple)
    chosen = _without_cross_attention(model, select_layers(config.layers, len(layers)), explicit)
    found = {index: find_mlps(layers[index], f"{prefix}.{index}", index, hidden_size) for index in chosen}
    kind = FAST_WEIGHTS.get(config.fast_weights)(config.rank)
    if kind.beside_block:
        return [
            site
            for index, mlps in found.items()
            for site in _block_sites(layers[index], f"{prefix}.{index}", index, hidden_size, mlps)
        ]
    without = [index for index, mlps in found.items() if not mlps]
    if without and (explicit or len(without) == len(chosen)):
        raise UnsupportedModelError(_no_dense_mlp(model, prefix, layers, without))
    if without:
        logger.warning("Layers %s of %s hold experts only and get no fast weights.", without, prefix)
    projections = [site for mlps in found.values() for mlp in mlps for site in mlp.sites]
    for target in config.target_modules:
        if not any(_matches(site, target) for site in projections):
            raise ConfigError(
                f"target_modules={list(config.target_modules)}: {target!r} matches nothing in {type(model).__name__}. "
                f"Roles are {list(ROLES)}; the projections seen are {_projection_names(projections)}."
            )
    sites = [site for site in projections if any(_matches(site, target) for target in config.target_modules)]
    for site in sites:
        kind.check(site)
    return sites


def _without_cross_attention(model: PreTrainedModel, chosen: list[int], explicit: bool) -> list[int]:
    """Llama 3.2's layers that look at images are passed over in text, so that nothing could be learned in them."""
    crossing = set(getattr(model.config.get_text_config(decoder=True), "cross_attention_layers", None) or ())
    kept = [index for index in chosen if index not in crossing]
    if len(kept) == len(chosen):
        return chosen
    skipped = sorted(crossing & set(chosen))
    if explicit or not kept:
        raise UnsupportedModelError(
            f"Layers {skipped} of {type(model).__name__} attend to images and are passed over in text. Select others."
        )
    logger.warning("Layers %s attend to images, are passed over in text, and get no fast weights.", skipped)
    return kept


def _no_dense_mlp(model: PreTrainedModel, prefix: str, layers: nn.ModuleList, without: list[int]) -> str:
    experts = [name for index in without for name in _expert_modules(layers[index], f"{prefix}.{index}")]
    if experts:
        return (
            f"{type(model).__name__} has no dense MLP projections in these selected places: {experts}. Experts route "
            "each token to its own weights, which per-sequence fast weights cannot follow yet. Select dense layers "
            "with `layers=[...]`, or use fast_weights='prime', which sits beside the whole block."
        )
    seen = [f"{prefix}.{index}: {_child_names(layers[index])}" for index in without]
    return (
        f"{type(model).__name__} has no MLP that could be recognised in these selected layers: {seen}. Expected a "
        "module that holds a projection out of the model's width and one back to it."
    )


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The dotted name and the list of the text decoder's layers."""
    text = model.config.get_text_config(decoder=True)
    # LongCat counts each of its layers twice, for it holds two attentions.
    counts = {text.num_hidden_layers, getattr(text, "num_layers", text.num_hidden_layers)}
    decoder = model.get_decoder()
    if not isinstance(decoder, PreTrainedModel):  # ModernBERT calls its head `decoder`
        decoder = model.base_model
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in counts and any(m is module for m in decoder.modules())
    ]
    # The outermost list of that length is the decoder's; a list of experts can only lie inside one of its layers.
    if not lists:
        raise UnsupportedModelError(
            f"{type(model).__name__}: found no list of {text.num_hidden_layers} decoder layers among "
            f"{_child_names(decoder)}. Only decoder-only language models can be converted."
        )
    return lists[0]


def learned_positions(model: PreTrainedModel) -> int | None:
    """How many positions a model with a table of learned positions has; None where positions are relative."""
    length = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    words = model.get_input_embeddings()
    tables = [m for m in model.get_decoder().modules() if isinstance(m, nn.Embedding) and m is not words]
    # Some tables hold a row or two more, for padding.
    learned = length is not None and any(0 <= table.num_embeddings - length <= 2 for table in tables)
    return length if learned else None


def select_layers(layers: LayerSelection, count: int) -> list[int]:
    """The indices that a selection means in a model of `count` layers."""
    if isinstance(layers, str):
        start, end = (math.floor(count * edge) for edge in RANGES[layers])
        return list(range(start, max(end, start + 1)))
    if isinstance(layers, float):
        return list(range(count - max(1, round(count * layers)), count))
    outside = [index for index in layers if index >= count]
    if outside:
        raise ConfigError(f"layers={outside} are out of range: the model has {count} layers, 0 to {count - 1}.")
    return sorted(layers)


Linear = tuple[str, int, int]  # name, in features, out features


def find_mlps(layer: nn.Module, path: str, index: int, hidden_size: int) -> list[MLP]:
    """Every dense MLP of a layer: a module that owns a projection back to D after one that leaves D."""
    mlps = []
    for name, module in layer.named_modules():
        full = f"{path}.{name}" if name else path
        if is_attention(name) or is_routed_expert(name):
            continue
        projections = [(child, *features(sub)) for child, sub in module.named_children() if is_projection(sub)]
        down = next((p for p in reversed(projections) if p[2] == hidden_size), None)
        widening = [p for p in projections if p is not down and down is not None and p[1] == hidden_size]
        if down is None or not any(out in (down[1], 2 * down[1]) for _, _, out in widening):
            continue
        # A Sequential calls everything it holds, so what the MLP gains has to live one level further out.
        owner = full.rpartition(".")[0] if isinstance(module, nn.Sequential) else full
        mlps.append(MLP(index, full, tuple(_sites_of(index, full, owner, widening, down))))
    return mlps


def _sites_of(index: int, mlp: str, owner: str, widening: list[Linear], down: Linear) -> list[Site]:
    down_name, width, hidden = down
    sites = []
    plain = [(name, out) for name, _, out in widening if out == width]
    for name, _, out in widening:
        path = f"{mlp}.{name}"
        if out == 2 * width:
            sites.append(Site(index, "gate", path, owner, hidden, width, fused=True))
            sites.append(Site(index, "up", path, owner, hidden, width, fused=True, offset=width))
        elif out == width:
            gate = len(plain) > 1 and _is_gate(name, [n for n, _ in plain])
            sites.append(Site(index, "gate" if gate else "up", path, owner, hidden, width))
    sites.append(Site(index, "down", f"{mlp}.{down_name}", owner, width, hidden))
    return sites


def _is_gate(name: str, siblings: list[str]) -> bool:
    named = [sibling for sibling in siblings if any(hint in sibling for hint in GATE_NAMES)]
    return name in named if named else name == siblings[0]


def _matches(site: Site, target: str) -> bool:
    return target == site.role or site.path == target or site.path.endswith("." + target)


def _block_sites(layer: nn.Module, path: str, index: int, hidden_size: int, mlps: list[MLP]) -> list[Site]:
    """The block beside which a prime MLP sits: the dense MLP, or the whole mixture of experts around it."""
    for name, module in layer.named_children():
        full = f"{path}.{name}"
        if is_attention(name):
            continue
        dense = [site for mlp in mlps if mlp.container == full for site in mlp.sites]
        if dense or _expert_modules(module, full):
            owner = path if isinstance(module, nn.Sequential) else full
            down = next((site for site in dense if site.role == "down"), None)
            return [Site(index, "block", full, owner, hidden_size, hidden_size, inside=down)]
    if not mlps:
        raise UnsupportedModelError(
            f"{path} has no MLP to put a prime MLP beside; its modules are {_child_names(layer)}. Choose other layers."
        )
    # The layer itself owns fc1 and fc2: the down projection's output is the MLP's, its input is not, so it cannot host.
    raise UnsupportedModelError(
        f"{path} holds its MLP projections directly ({_child_names(layer)}), so there is no block to put a prime MLP "
        "beside. Use fast_weights='delta' or 'lora'."
    )


def is_projection(module: nn.Module) -> bool:
    # bitsandbytes' and torchao's layers derive from nn.Linear.
    return isinstance(module, (nn.Linear, Conv1D))


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module of that dotted name.

    Raises
    ------
    UnsupportedModelError
        When it is there no more.
    """
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise UnsupportedModelError(
            f"{path} is there no more: what held it was exchanged after wrap(), and fast weights went with it. Call "
            "unwrap() before modules are exchanged, and wrap() afterwards."
        ) from error


def without_lora(module: nn.Module) -> Any:
    """The projection itself, where PEFT's LoRA is around it."""
    inside = module._modules.get("base_layer")
    return module if inside is None else inside


def without_adapters(module: nn.Module) -> Any:
    """The projection itself, however many of PEFT's adapters, of any kind, are around it."""
    while (inside := without_lora(module)) is not module:
        module = inside
    return module


def features(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


def is_attention(name: str) -> bool:
    return any("attn" in part or "attention" in part for part in name.lower().split("."))


def is_routed_expert(name: str) -> bool:
    parts = name.lower().split(".")
    return any("expert" in part and "shared" not in part for part in parts)


def _expert_modules(module: nn.Module, path: str) -> list[str]:
    """Where experts are, told by the name of a module or of its class; those of attention are no MLP's."""
    found = []
    for name, inner in module.named_modules():
        full = f"{path}.{name}" if name else path
        last = full.rpartition(".")[2].lower()
        named = "expert" in last or "Experts" in type(inner).__name__
        if named and "shared" not in last and not is_attention(name):
            found.append(full)
    return found


def _child_names(module: nn.Module) -> list[str]:
    return [f"{name} ({type(child).__name__})" for name, child in module.named_children()]


def _projection_names(sites: list[Site]) -> list[str]:
    return [f"{site.role}: {site.path}" for site in sites if site.layer == sites[0].layer]
