"""Rotary positions, taken off and put on: x at position p is R(p) x. N tokens, D head dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def angles(rotary: Any, positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, (N, D) each, float32; the scale that some families put on both is taken off."""
    cos, sin = rotary(torch.zeros(1, dtype=torch.float32, device=positions.device), positions[None])
    return cos[0] / rotary.attention_scaling, sin[0] / rotary.attention_scaling


def turned(x: Tensor) -> Tensor:
    """A quarter turn of every pair (first half, second half)."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def rotated(x: Tensor, rotary: Any, by: Tensor) -> Tensor:
    """(..., N, D), moved on by (N,) positions, which may be negative."""
    cos, sin = angles(rotary, by)
    return (x.float() * cos + turned(x.float()) * sin).to(x.dtype)


def unrotated(x: Tensor, rotary: Any, positions: Tensor) -> Tensor:
    """(..., N, D) as it was before its rotation to (N,) positions."""
    return rotated(x, rotary, -positions)


def rotation(rotary: Any, positions: Tensor, size: int) -> Tensor:
    """The matrices R(p), (N, D, D)."""
    return rotated(
        torch.eye(size, device=positions.device)[:, None].expand(-1, len(positions), -1), rotary, positions
    ).permute(1, 2, 0)
