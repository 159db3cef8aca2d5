"""Finds the projections a memory is written to: of the MLPs by role, of attention, or any by name.

R rank, I in features, O out features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from ..config import ROLES
from ..errors import ConfigError
from ..inner.discovery import (
    decoder_layers,
    features,
    find_mlps,
    is_attention,
    is_projection,
    is_routed_expert,
    select_layers,
    without_adapters,
)
from .config import MemoryConfig

ATTENTION = "attention"


@dataclass(frozen=True)
class Projection:
    """One matrix of the base."""

    path: str
    in_features: int
    out_features: int

    def takes(self, weights: dict[str, Tensor]) -> bool:
        """Whether they are {"a": (R, I), "b": (O, R)} of any rank."""
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        rank = shapes.get("a", ())[:1]
        return shapes == {"a": (*rank, self.in_features), "b": (self.out_features, *rank)}


@dataclass(frozen=True)
class Placement:
    """The layer and the projections of a model that memories of one configuration are added to."""

    layer: str  # the lowest layer with such a projection; gates depend on its input
    index: int  # its number
    projections: tuple[Projection, ...]


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module of that dotted name; None where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def projection_at(model: nn.Module, path: str) -> Projection | None:
    """The projection of that dotted name, also one with PEFT's adapters around it; None where there is none."""
    found = submodule(model, path)
    module = None if found is None else without_adapters(found)
    return Projection(path, *features(module)) if module is not None and is_projection(module) else None


def find_placement(model: PreTrainedModel, config: MemoryConfig) -> Placement:
    """The layer whose input gates depend on, and the projections that terms are added to, in forward order.

    Raises
    ------
    ConfigError
        For layers out of range, names that match nothing, or a rank larger than a matrix.
    """
    prefix, layers = decoder_layers(model)
    chosen = select_layers(config.layers, len(layers))
    hidden_size = model.config.get_text_config(decoder=True).hidden_size
    found: list[Projection] = []
    matched: set[str] = set()
    seen: set[str] = set()
    for index in chosen:
        path = f"{prefix}.{index}"
        roles: dict[str, set[str]] = {}
        for mlp in find_mlps(layers[index], path, index, hidden_size):
            for site in mlp.sites:
                roles.setdefault(site.path, set()).add(site.role)
        for name, module in layers[index].named_modules():
            if not is_projection(module) or is_routed_expert(name):
                continue
            full = f"{path}.{name}"
            named = {ATTENTION} if is_attention(name) else roles.get(full, set())
            targets = {t for t in config.target_modules if t in named or full == t or full.endswith("." + t)}
            seen.add(name)
            if targets:
                matched |= targets
                found.append(Projection(full, *features(module)))
    # Not every family has a gate; a name, though, is meant to be found.
    unmatched = [t for t in config.target_modules if t not in matched and (t not in ROLES or not found)]
    if unmatched:
        raise ConfigError(
            f"target_modules={list(config.target_modules)}: {unmatched} match nothing in the selected layers of "
            f"{type(model).__name__}, whose projections are {sorted(seen)}. Roles are {[*ROLES, ATTENTION]}."
        )
    for projection in found:
        limit = min(projection.in_features, projection.out_features)
        if config.rank > limit:
            raise ConfigError(
                f"rank={config.rank} is larger than {projection.path} ({projection.out_features} x "
                f"{projection.in_features}). Use rank <= {limit}."
            )
    return Placement(f"{prefix}.{chosen[0]}", chosen[0], tuple(found))
