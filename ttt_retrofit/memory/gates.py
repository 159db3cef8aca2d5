"""Gates: how much of a memory is added, found token by token from what the text has lately been about.

What a text is about is a running mean of the hidden states entering one layer. It looks back only, so a gate never
depends on what comes later, nor on how tokens are split into calls. A memory's gate opens where that mean resembles one
of the keys kept from its study questions (retrieval by activation, as in GRACE, Hartvigsen et al. 2023, §3).
Of several memories the one that the last few tokens resembled most is added: no single word of a reply makes another
one take over.
B rows, T tokens, M memories, K keys, D model width, N directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

# The mean reaches back about this many tokens: a question, not the conversation before it.
REACH = 8
# Every gate is shut before this many tokens: a mean over fewer says nothing.
MIN_TOKENS = 8
# Memories are compared with each other over about this many tokens.
NEAR_REACH = 3
# Of several memories, those within this cosine of the best are added in full. Those from twice as far are
# not added: one memory may have been taught to decline what another knows.
SUPPRESSION = 0.01


@dataclass(frozen=True)
class GateState:
    """What gates carry from one forward to the next, for each row of a batch."""

    sums: Tensor  # (B, D) float32, exponentially weighted sums of hidden states
    near: Tensor  # (B, M) float32, the same of the cosines to each memory's nearest key
    seen: Tensor  # (B,) tokens so far

    @classmethod
    def fresh(cls, like: Tensor) -> GateState:
        """Before the first token of rows whose hidden states are `like` (B, ..., D)."""
        blank = torch.zeros(like.shape[0], like.shape[-1], device=like.device)
        return cls(blank, blank[:, :0], torch.zeros(like.shape[0], dtype=torch.long, device=like.device))

    def at_start(self) -> GateState:
        """That of the same rows before their first token."""
        return GateState.fresh(self.sums)

    @classmethod
    def join(cls, states: Sequence[tuple[GateState | None, int]]) -> GateState | None:
        """One of all rows. states: each with its number of rows; None where no gate has been asked for."""
        known = [state for state, _ in states if state is not None]
        if not known:
            return None
        memories = max(state.near.shape[1] for state in known)
        blank = known[0].sums
        parts = [
            (cls.fresh(blank.new_zeros(rows, blank.shape[1])) if state is None else state).resized(memories).tensors()
            for state, rows in states
        ]
        return cls(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})

    def resized(self, memories: int) -> GateState:
        """The same where the longest memory of the batch has so many entries: each row's own come first."""
        near = self.near[:, :memories]
        return replace(self, near=F.pad(near, [0, memories - near.shape[1]]))

    def of_memories(self, memories: int) -> GateState:
        """The same before so many memories; if they are others than so far, none is nearer yet."""
        if self.near.shape[1] == memories:
            return self
        return replace(self, near=self.near.new_zeros(self.near.shape[0], memories))

    def select(self, rows: Tensor) -> GateState:
        return GateState(*(tensor.index_select(0, rows) for tensor in self.tensors().values()))

    def replace_rows(self, rows: Tensor, other: GateState) -> GateState:
        """This with the rows `rows` taken from `other`, which has as many rows as this and is the later one."""
        both = zip(self.of_memories(other.near.shape[1]).tensors().values(), other.select(rows).tensors().values())
        return GateState(*(mine.index_copy(0, rows, chosen) for mine, chosen in both))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> GateState | None:
        """What `tensors` gave, or None of none."""
        return cls(**tensors) if tensors else None

    @staticmethod
    def expected(found: dict[str, Tensor], rows: int, width: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and dtypes of the tensors that a file must hold where it holds `found`. width: D."""
        if "sums" not in found:
            return {}
        near = found.get("near")
        memories = near.shape[-1] if near is not None and near.ndim else 0
        return {
            "sums": ((rows, width), torch.float32),
            "near": ((rows, memories), torch.float32),
            "seen": ((rows,), torch.long),
        }

    def tensors(self) -> dict[str, Tensor]:
        return dict(vars(self))

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
    closed: Tensor  # (B or 1, M) cosine up to which its gate is shut
    opened: Tensor  # (B or 1, M) cosine from which it is open

    def select(self, rows: Tensor) -> Gates:
        keys, closed, opened = (_rows(tensor, rows) for tensor in (self.keys, self.closed, self.opened))
        return Gates(self.background.select(rows), keys, closed, opened)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if tensor.shape[0] == 1 else tensor.index_select(0, rows)


def running_mean(hidden: Tensor, before: GateState | None, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The mean after every token, how many tokens it has seen, and the sums to carry on.

    Every hidden state counts with length 1: the first token of a text is often a hundred times longer than the rest.

    Parameters
    ----------
    hidden : (B, T, D), real tokens first in every row.
    real : (B,) how many of them are real, at least 0.

    Returns
    -------
    means (B, T, D) float32, seen (B, T), and `GateState.sums` (B, D) after each row's last real token.
    """
    before = before or GateState.fresh(hidden)
    seen = before.seen[:, None] + torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    means, carried = _fading_means(F.normalize(hidden.detach().float(), dim=-1), before.sums, seen, real, REACH)
    return means, seen, carried


def _fading_means(values: Tensor, before: Tensor, seen: Tensor, real: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Exponentially weighted means of values (B, T, X) over about `reach` tokens, and the sums (B, X) to carry on."""
    keep = 1 - 1 / reach
    steps = torch.arange(values.shape[1], device=values.device)
    age = steps[:, None] - steps
    weights = torch.where(age >= 0, keep ** age.clamp_min(0).float(), 0) / reach  # (T, T)
    sums = weights @ values + (keep ** (steps + 1).float())[:, None] * before[:, None]
    last = (real - 1).clamp_min(0)[:, None, None].expand(-1, 1, values.shape[-1])
    carried = torch.where((real > 0)[:, None], sums.gather(1, last).squeeze(1), before)
    return sums / (1 - keep ** seen.float())[..., None], carried


def scores(whitened: Tensor, keys: Tensor) -> Tensor:
    """Cosine to the nearest key of each memory. (B, T, D), (B or 1, M, K, D) -> (B, T, M)."""
    batch, memories, count, width = keys.shape
    cosine = whitened @ keys.reshape(batch, memories * count, width).mT
    return cosine.view(*cosine.shape[:2], memories, count).amax(-1)


def openings_and_state(
    hidden: Tensor, before: GateState | None, real: Tensor, gates: Gates
) -> tuple[Tensor, GateState]:
    """How far each gate is open, from 0 to 1, after every token: (B, T, M); and the state after the last.

    Parameters as of `running_mean`.
    """
    before = (before or GateState.fresh(hidden)).of_memories(gates.keys.shape[1])
    means, seen, sums = running_mean(hidden, before, real)
    cosine = scores(gates.background.whitened(means), gates.keys)
    # What is about nothing yet, or has no number, resembles nothing.
    cosine = torch.where((seen >= MIN_TOKENS)[..., None] & cosine.isfinite(), cosine, -1)
    near, carried = _fading_means(cosine.clamp_min(0), before.near, seen, real, NEAR_REACH)
    return openings(cosine, near, gates), GateState(sums, carried, before.seen + real)


def openings(cosine: Tensor, near: Tensor, gates: Gates) -> Tensor:
    """How far each gate is open: by how near the text is to its keys now, cosine (B, T, M), and by how near it has been
    of late compared with the other memories, near (B, T, M).
    """
    closed, opened = gates.closed[:, None], gates.opened[:, None]
    opening = ((cosine - closed) / (opened - closed)).clamp(0, 1)
    opening = torch.where(closed > 1, 0, opening)  # no memory at all: whatever the cosine is, NaN included
    alone = (closed < -1) | (closed > 1)  # a memory without a gate, or none at all
    behind = near.masked_fill(alone, 0).amax(-1, keepdim=True) - near
    return torch.where(alone, opening, opening * (2 - behind / SUPPRESSION).clamp(0, 1))
