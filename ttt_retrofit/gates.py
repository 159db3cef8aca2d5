"""When a memory speaks: gates found, token by token, from what the text has lately been about.

What a text is about is a running mean of the hidden states entering one layer. It looks back only, so a gate never
depends on what comes later, nor on how tokens are split into calls. A memory's gate opens where that mean resembles one
of the keys kept from its study questions (retrieval by activation, as in GRACE, Hartvigsen et al. 2023, §3).
B rows, T tokens, M memories, K keys, D model width, N directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# The mean reaches back about this many tokens: a question, not the conversation before it.
REACH = 8
# A mean over fewer tokens than this is about nothing yet; every gate is shut.
SETTLED = 8
# Of several memories, those speak fully whose cosine is this close to the best, and from twice as far none does: what
# one was taught to decline, another may know.
RIVALRY = 0.05


@dataclass(frozen=True)
class Topic:
    """The running mean of a batch between two forwards."""

    sums: Tensor  # (B, D) float32, exponentially weighted
    seen: Tensor  # (B,) tokens so far

    def select(self, rows: Tensor) -> Topic:
        return Topic(self.sums.index_select(0, rows), self.seen.index_select(0, rows))

    def fresh(self) -> Topic:
        """Of the same rows, before their first token."""
        return Topic(torch.zeros_like(self.sums), torch.zeros_like(self.seen))

    def replace_rows(self, rows: Tensor, other: Topic) -> Topic:
        """This with the rows `rows` taken from `other`, which has as many rows as this."""
        chosen = other.select(rows)
        return Topic(self.sums.index_copy(0, rows, chosen.sums), self.seen.index_copy(0, rows, chosen.seen))

    @property
    def nbytes(self) -> int:
        return self.sums.nbytes + self.seen.nbytes


@dataclass(frozen=True)
class Background:
    """What texts about nothing in particular look like to a layer: their mean, and where they vary most.

    A first dimension of 1 is shared by all rows; it is missing where there is only one.
    """

    centre: Tensor  # (B or 1, D)
    directions: Tensor  # (B or 1, D, N) orthonormal
    shrink: Tensor  # (B or 1, N) in [0, 1): what is left of each direction after whitening

    def whitened(self, means: Tensor) -> Tensor:
        """`means` (..., T, D) with the directions common to all texts scaled down, of unit length."""
        away = means - self.centre[..., None, :]
        common = away @ self.directions
        away = away - (common * (1 - self.shrink)[..., None, :]) @ self.directions.mT
        return F.normalize(away, dim=-1)

    def float(self) -> Background:
        """In float32, as it is computed with; it is stored in 16 bits."""
        return Background(self.centre.float(), self.directions.float(), self.shrink.float())

    def to(self, device: torch.device) -> Background:
        return Background(*(tensor.to(device) for tensor in (self.centre, self.directions, self.shrink)))

    def select(self, rows: Tensor) -> Background:
        return Background(*(_rows(t, rows) for t in (self.centre, self.directions, self.shrink)))


@dataclass(frozen=True)
class Gates:
    """The gates of the memories of a batch. A first dimension of 1 is shared by all rows."""

    background: Background
    keys: Tensor  # (B or 1, M, K, D) whitened, of unit length, or zero where a memory has fewer
    closed: Tensor  # (B or 1, M) cosine up to which a memory is silent
    opened: Tensor  # (B or 1, M) cosine from which it speaks fully

    def select(self, rows: Tensor) -> Gates:
        keys, closed, opened = (_rows(tensor, rows) for tensor in (self.keys, self.closed, self.opened))
        return Gates(self.background.select(rows), keys, closed, opened)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if tensor.shape[0] == 1 else tensor.index_select(0, rows)


def running_mean(hidden: Tensor, before: Topic | None, real: Tensor) -> tuple[Tensor, Tensor, Topic]:
    """The mean after every token, how many tokens it has seen, and what to carry on.

    Every hidden state counts with length 1: the first token of a text is often a hundred times longer than the rest.

    Parameters
    ----------
    hidden : (B, T, D), real tokens first in every row.
    real : (B,) how many of them are real, at least 0.

    Returns
    -------
    means (B, T, D) float32, seen (B, T), and the `Topic` after each row's last real token.
    """
    rows, length, width = hidden.shape
    keep = 1 - 1 / REACH
    unit = F.normalize(hidden.detach().float(), dim=-1)
    before = before or Topic(unit.new_zeros(rows, width), torch.zeros_like(real))
    steps = torch.arange(length, device=hidden.device)
    age = steps[:, None] - steps
    weights = torch.where(age >= 0, keep ** age.clamp_min(0).float(), 0) / REACH  # (T, T)
    faded = keep ** (steps + 1).float()
    sums = weights @ unit + faded[:, None] * before.sums[:, None]
    seen = before.seen[:, None] + steps + 1
    means = sums / (1 - keep ** seen.float())[..., None]
    last = (real - 1).clamp_min(0)[:, None, None].expand(-1, 1, width)
    carried = torch.where((real > 0)[:, None], sums.gather(1, last).squeeze(1), before.sums)
    return means, seen, Topic(carried, before.seen + real)


def scores(whitened: Tensor, keys: Tensor) -> Tensor:
    """Cosine to the nearest key of each memory. (B, T, D), (B or 1, M, K, D) -> (B, T, M)."""
    batch, memories, count, width = keys.shape
    cosine = whitened @ keys.reshape(batch, memories * count, width).mT
    return cosine.unflatten(-1, (memories, count)).amax(-1)


def openings(means: Tensor, seen: Tensor, gates: Gates) -> Tensor:
    """How far each gate is open, from 0 (silent) to 1. means: (B, T, D), seen: (B, T) tokens -> (B, T, M)."""
    cosine = scores(gates.background.whitened(means), gates.keys)
    closed, opened = gates.closed[:, None], gates.opened[:, None]
    opening = ((cosine - closed) / (opened - closed)).clamp(0, 1)
    always = closed < -1  # a memory without a gate
    best = cosine.masked_fill(always | (closed > 1), -1).amax(-1, keepdim=True)
    opening = torch.where(always, opening, opening * (2 - (best - cosine) / RIVALRY).clamp(0, 1))
    return torch.where((seen >= SETTLED)[..., None] | always, opening, 0)
