"""Tells a model whose weights are split over processes from one that is whole."""

from __future__ import annotations

from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import UnsupportedModelError


def check_whole(model: nn.Module) -> None:
    """Raise `UnsupportedModelError` where this process holds only a part of the weights."""
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise UnsupportedModelError(
            "The weights of this model are split over processes, and only its trainer can use them. Call "
            "trainer.save_model(directory) in all processes, and load that."
        )
