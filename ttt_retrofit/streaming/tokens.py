"""The tokens that a call reads, without the padding around them.

B batch rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..util.devices import on_device


@dataclass(frozen=True)
class Tokens:
    """A call's tokens, real ones first in every row."""

    ids: Tensor  # (B, T)
    positions: Tensor | None  # (B, T), or None to number real tokens
    counts: list[int]  # real tokens, by row
    order: Tensor | None  # (B, T) the column each came from; None if nothing was moved

    def part(self, starts: list[int], taken: list[int]) -> tuple[list[Tensor], list[Tensor] | None]:
        """Copies of the ids and positions of `taken` tokens by row, from `starts` on."""

        def cut(table: Tensor) -> list[Tensor]:
            return [row[start : start + count].clone() for row, start, count in zip(table, starts, taken)]

        return cut(self.ids), None if self.positions is None else cut(self.positions)


def align(ids: Tensor, real: Tensor | None, positions: Tensor | None, ahead: list[int] | None = None) -> Tokens:
    """Move padding, wherever it is, behind each row's real tokens.

    real: (B, T) bool, or None if all are. ahead: real tokens to pass over at the beginning, by row.
    """
    rows, length = ids.shape
    if positions is not None:
        positions = positions.expand(rows, -1)
    if ahead is not None and any(ahead):
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        real = real & (real.cumsum(1) > on_device(ahead, ids.device)[:, None])
    if real is None or bool(real.all()):
        return Tokens(ids, positions, [length] * rows, None)
    order = torch.argsort((~real).to(torch.uint8), dim=1, stable=True)
    counts = real.sum(1).tolist()
    order = order[:, : max(max(counts), 1)]
    moved = None if positions is None else positions.gather(1, order)
    return Tokens(ids.gather(1, order), moved, counts, order)


def marks_of(real: Tensor, numbers: Tensor) -> Tensor:
    """What tells columns from others: how many are real, and the sum of their numbers. (B, T), (T,) -> (B, 2)."""
    real = real.long()
    return torch.stack([real.sum(1), (real * numbers).sum(1)], dim=1)
