"""Keeps rotary frequencies the same for every call.

LongRoPE and dynamic NTK choose frequencies by the largest position of a call. The keys of earlier calls were made with
others, so the result depends on how tokens were split into calls. A model that reads under a window does not need it:
no two tokens that see each other are further apart than in training, and it keeps the frequencies of its training.
`freeze` tells how far apart tokens may come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

FROZEN = "frozen"  # to transformers, a kind of rotary embedding that never changes
KEPT = "_ttt_rope_type"  # what it was


def freeze(model: nn.Module) -> int | None:
    """Stop frequencies from following the call; returns how far apart tokens may be then, None for any distance."""
    reaches = []
    for module, kind, layer_type in _changing(model):
        prefix = f"{layer_type}_" if layer_type else ""
        with torch.no_grad():
            inverse = module.get_buffer(f"{prefix}inv_freq")
            inverse.copy_(module.get_buffer(f"{prefix}original_inv_freq"))
        parameters = module.config.rope_parameters
        own = parameters[layer_type] if layer_type else parameters
        reach = own.get("original_max_position_embeddings") if kind == "longrope" else module.original_max_seq_len
        reaches.append(reach)
    for module in {id(module): module for module, _, _ in _changing(model)}.values():
        vars(module).setdefault(KEPT, module.rope_type)
        module.rope_type = _frozen(vars(module)[KEPT])
    return min(reaches, default=None)


def release(model: nn.Module) -> None:
    """The inverse of `freeze`."""
    for module in model.modules():
        if KEPT in vars(module):
            module.rope_type = vars(module).pop(KEPT)
            module.max_seq_len_cached = module.original_max_seq_len


def _changing(model: nn.Module) -> Iterator[tuple[Any, str, str | None]]:
    """Every rotary embedding whose frequencies follow the call, or did, its kind, and the type of layers it is for."""
    for module in model.modules():
        kinds = vars(module).get(KEPT, vars(module).get("rope_type"))
        by_layer: dict[str | None, Any] = kinds if isinstance(kinds, dict) else {None: kinds}
        for layer_type, kind in by_layer.items():
            if _changes(kind):
                yield module, kind, layer_type


def _changes(kind: Any) -> bool:
    return isinstance(kind, str) and ("dynamic" in kind or kind == "longrope")


def _frozen(kinds: Any) -> Any:
    if isinstance(kinds, dict):
        return {layer_type: _frozen(kind) for layer_type, kind in kinds.items()}
    return FROZEN if _changes(kinds) else kinds
