"""When a memory speaks: gates found, token by token, from what the text has lately been about.

What a text is about is a running mean of the hidden states entering one layer. It looks back only, so a gate never
depends on what comes later, nor on how tokens are split into calls. A memory's gate opens where that mean resembles one
of the keys kept from its study questions (retrieval by activation, as in GRACE, Hartvigsen et al. 2023, §3).
Of several memories the one that was asked speaks, through its whole reply: the last moment at which the text clearly
named one tells which.
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
RIVALRY = 0.02
# Cosine that the moment at which a memory was named loses with every token after it; then another moment is clearer.
FADING = 0.03


@dataclass(frozen=True)
class Topic:
    """Where the rows of a batch stand between two forwards."""

    sums: Tensor  # (B, D) float32, the running mean before it is normalised
    seen: Tensor  # (B,) tokens so far
    asked: Tensor  # (B, D) float32, whitened: the mean at the moment that tells who was asked; zero before there is one
    ago: Tensor  # (B,) tokens since then

    @classmethod
    def fresh(cls, like: Tensor) -> Topic:
        """Before the first token of rows whose hidden states are `like` (B, ..., D)."""
        rows, width = like.shape[0], like.shape[-1]
        blank = torch.zeros(rows, width, device=like.device)
        none = torch.zeros(rows, dtype=torch.long, device=like.device)
        return cls(blank, none, blank, none)

    def select(self, rows: Tensor) -> Topic:
        return Topic(*(tensor.index_select(0, rows) for tensor in self.tensors().values()))

    def replace_rows(self, rows: Tensor, other: Topic) -> Topic:
        """This with the rows `rows` taken from `other`, which has as many rows as this."""
        both = zip(self.tensors().values(), other.select(rows).tensors().values())
        return Topic(*(mine.index_copy(0, rows, chosen) for mine, chosen in both))

    def tensors(self) -> dict[str, Tensor]:
        return {"sums": self.sums, "seen": self.seen, "asked": self.asked, "ago": self.ago}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors().values())


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


def running_mean(hidden: Tensor, before: Topic | None, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean after every token, how many tokens it has seen, and the sums to carry on.

    Every hidden state counts with length 1: the first token of a text is often a hundred times longer than the rest.

    Parameters
    ----------
    hidden : (B, T, D), real tokens first in every row.
    real : (B,) how many of them are real, at least 0.

    Returns
    -------
    means (B, T, D) float32, seen (B, T), and `Topic.sums` (B, D) after each row's last real token.
    """
    _, length, width = hidden.shape
    keep = 1 - 1 / REACH
    unit = F.normalize(hidden.detach().float(), dim=-1)
    before = before or Topic.fresh(hidden)
    steps = torch.arange(length, device=hidden.device)
    age = steps[:, None] - steps
    weights = torch.where(age >= 0, keep ** age.clamp_min(0).float(), 0) / REACH  # (T, T)
    faded = keep ** (steps + 1).float()
    sums = weights @ unit + faded[:, None] * before.sums[:, None]
    seen = before.seen[:, None] + steps + 1
    means = sums / (1 - keep ** seen.float())[..., None]
    last = (real - 1).clamp_min(0)[:, None, None].expand(-1, 1, width)
    carried = torch.where((real > 0)[:, None], sums.gather(1, last).squeeze(1), before.sums)
    return means, seen, carried


def scores(whitened: Tensor, keys: Tensor) -> Tensor:
    """Cosine to the nearest key of each memory. (B, T, D), (B or 1, M, K, D) -> (B, T, M)."""
    batch, memories, count, width = keys.shape
    cosine = whitened @ keys.reshape(batch, memories * count, width).mT
    return cosine.unflatten(-1, (memories, count)).amax(-1)


def follow(hidden: Tensor, before: Topic | None, real: Tensor, gates: Gates) -> tuple[Tensor, Topic]:
    """How far each gate is open, from 0 (silent) to 1, after every token: (B, T, M); and where the text stands then.

    Parameters as of `running_mean`.
    """
    before = before or Topic.fresh(hidden)
    means, seen, sums = running_mean(hidden, before, real)
    # The moment at which a memory was asked before goes first, as if it were a token.
    about = torch.cat([before.asked[:, None], gates.background.whitened(means)], dim=1)  # (B, 1 + T, D)
    settled = F.pad(seen >= SETTLED, (1, 0), value=True)[..., None]
    cosine = torch.where(settled, scores(about, gates.keys), -1)  # (B, 1 + T, M)
    moments = clearest(cosine.masked_fill(_without_rivals(gates), -1).amax(-1), before.ago)
    last = moments.gather(1, real[:, None])
    asked = about.gather(1, last[..., None].expand(-1, 1, about.shape[-1])).squeeze(1)
    ago = real - last[:, 0] + torch.where(last[:, 0] == 0, before.ago, 0)
    return openings(cosine, moments, gates)[:, 1:], Topic(sums, before.seen + real, asked, ago)


def clearest(best: Tensor, ago: Tensor) -> Tensor:
    """For every moment, the one up to then at which a memory was named most clearly: indices (B, 1 + T).

    best : (B, 1 + T) cosine to the nearest key; the first is from `ago` (B,) tokens before the others.
    """
    steps = torch.arange(best.shape[1], device=best.device).expand_as(best).clone()
    steps[:, 0] -= ago
    return (best + FADING * steps).cummax(dim=1).indices


def openings(cosine: Tensor, moments: Tensor, gates: Gates) -> Tensor:
    """How far each gate is open, from 0 (silent) to 1: (B, 1 + T, M), as is cosine.

    A gate opens by how near the text is to its keys now, and where it was among the nearest when one was asked.
    """
    opening = ((cosine - gates.closed[:, None]) / (gates.opened - gates.closed)[:, None]).clamp(0, 1)
    apart = _without_rivals(gates)
    then = cosine.masked_fill(apart, -1).gather(1, moments[..., None].expand_as(cosine))
    behind = then.amax(-1, keepdim=True) - then
    return torch.where(apart, opening, opening * (2 - behind / RIVALRY).clamp(0, 1))


def _without_rivals(gates: Gates) -> Tensor:
    """Memories without a gate, and those that never speak. (B or 1, 1, M)"""
    return ((gates.closed < -1) | (gates.closed > 1))[:, None]
