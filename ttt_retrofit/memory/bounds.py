"""The bounds of what a memory from another author may do to a model.

A memory is weights, and no check tells good weights from bad ones. So a memory is kept within what `consolidate` makes:
it is added to MLPs only, its change of a projection is bounded, and it has a gate.
R rank, I in features, O out features, K keys, D model width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import CheckpointError
from ..inner.discovery import module_at, without_adapters
from .config import MemoryConfig
from .memory import Memory
from .projections import find_placement

# A change of this many times a projection's own Frobenius norm is no memory; consolidation stays below 1.
LARGEST_CHANGE = 10.0
ROUNDING = 0.02  # of unit vectors kept in 16 bits


def check_bounds(memory: Memory, model: PreTrainedModel) -> None:
    """Raise unless all that a memory does is what one made by `consolidate` with its default placement may do.

    Raises
    ------
    CheckpointError
        For weights of anything but the MLPs of decoder layers, weights far larger than the base's, entries without a
        gate, or gates that stand open for everything.
    """
    mlps = {place.path for place in find_placement(model, MemoryConfig(rank=1, layers=1.0)).projections}
    for entry in memory.entries:
        outside = sorted(entry.weights.keys() - mlps)
        if outside:
            _refuse(f"entry {entry.name!r} writes to {outside[0]}, expected only projections of MLPs in its layers")
    if memory.entries and not memory.config.gated:
        _refuse("it has no gate and is always active")
    background = memory.background
    if _longest(background.centre[None]) > 1 + ROUNDING or _longest(background.directions.mT) > 1 + ROUNDING:
        _refuse("its background is of vectors longer than 1, by which gates open for anything")
    if not bool(((background.shrink >= 0) & (background.shrink <= 1)).all()):
        _refuse("its background has whitening outside of 0 to 1")
    for entry in memory.entries:
        gate = entry.gate
        if not (-1 <= gate.closed < gate.opened and gate.opened > 0) or _longest(gate.keys) > 1 + ROUNDING:
            _refuse(
                f"the gate of entry {entry.name!r} (shut up to a cosine of {gate.closed:g}, open from "
                f"{gate.opened:g}) stands open for texts about anything"
            )
    for entry in memory.entries:
        for path, weights in entry.weights.items():
            ratio = _norm(weights) / _norm_of(model, path)
            if not ratio <= LARGEST_CHANGE:
                _refuse(
                    f"entry {entry.name!r} changes {path} by {ratio:.3g} times its own norm, {LARGEST_CHANGE:g} at most"
                )


def _refuse(found: str) -> None:
    raise CheckpointError(
        f"This memory may do more than one made by consolidate(): {found}. Load it with load_memory(..., safe=False) "
        "if you trust who made it."
    )


def _longest(vectors: Tensor) -> float:
    """The length of the longest of (N, D)."""
    return max(torch.linalg.vector_norm(vectors.float(), dim=-1).tolist(), default=0.0)


def _norm(weights: dict[str, Tensor]) -> float:
    """The Frobenius norm of b a, (O, R) (R, I): ‖b a‖² = ⟨bᵀ b, a aᵀ⟩."""
    a, b = weights["a"].double(), weights["b"].double()
    return float(((b.mT @ b) * (a @ a.mT)).sum().clamp_min(0).sqrt())


def _norm_of(model: PreTrainedModel, path: str) -> float:
    """That of a projection of the base; infinity where its weight is no matrix in memory, which bounds nothing."""
    weight = without_adapters(module_at(model, path)).weight
    if weight.is_meta or not weight.is_floating_point():
        return float("inf")
    return float(torch.linalg.vector_norm(weight.detach().float()))
