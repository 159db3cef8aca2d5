"""Private copies of a model that share its weights: what is changed in a copy leaves the original as it is."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


def private_copy(model: Any) -> Any:
    """The same modules anew around the same tensors, frozen. Costs no memory but the module objects.

    Whoever answers from the original in another thread never sees what is done to the copy.
    """
    shared: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        # Quantized parameters carry their scales as attributes of the object itself.
        plain = type(tensor) in (nn.Parameter, torch.Tensor)
        shared[id(tensor)] = _frozen(tensor) if plain else tensor
    with torch.inference_mode(False):
        copied = copy.deepcopy(model, shared)
    copied.get_output_embeddings().register_forward_pre_hook(_lay_out)
    return copied


def _lay_out(module: nn.Module, args: tuple) -> tuple:
    """For the last token of each row, a strided input, torch would copy the head's matrix once for every row."""
    return (args[0].contiguous(), *args[1:])


def _frozen(tensor: torch.Tensor) -> torch.Tensor:
    return nn.Parameter(tensor.detach(), requires_grad=False) if isinstance(tensor, nn.Parameter) else tensor


def plain_copy(model: Any) -> Any:
    """A private copy of a converted model, unwrapped: the base as its family made it."""
    return private_copy(model).unwrap().eval()
