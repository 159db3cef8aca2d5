"""What Python knows, as tensors on a device that is not waited for.

`torch.tensor(values, device=device)` waits until an accelerator has done all that it was given to do.
"""

from __future__ import annotations

import torch
from torch import Tensor


def on_device(values: list[int], device: torch.device) -> Tensor:
    """(N,) int64."""
    return torch.tensor(values, dtype=torch.long, device="cpu").to(device, non_blocking=True)


def flags(values: list[bool], device: torch.device) -> Tensor:
    """(N,) bool. Where all are alike, nothing is sent."""
    if len(set(values)) == 1:
        return torch.full((len(values),), values[0], device=device)
    return torch.tensor(values, device="cpu").to(device, non_blocking=True)
