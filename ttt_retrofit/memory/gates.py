"""Gates: how much of a memory is added, found token by token from what the text has lately been about.

What a text is about is a running mean of the hidden states entering one layer. It looks back only, so a gate never
depends on what comes later, nor on how tokens are split into calls. It begins anew with each turn of the user
(`turns`), so that what one turn was about opens no gate in the next. A memory's gate opens where that mean resembles
one of the keys kept from its study questions (retrieval by activation, as in GRACE, Hartvigsen et al. 2023, §3).
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

from .turns import TAIL, between_turns, no_tail, tail_after, turn_starts

# The mean reaches back about this many tokens: a question, not the conversation before it.
REACH = 8
# Every gate is shut before this many tokens of a text: a mean over fewer says nothing.
MIN_TOKENS = 8
# And before this many of a turn, where turns are told apart: some templates write no more than two tokens around "Who
# am I?", counted from where the turn begins.
MIN_TOKENS_OF_TURN = 6
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
    seen: Tensor  # (B,) tokens of the turn so far
    tail: Tensor  # (B, 7) the last token ids, -1 where there are fewer

    @classmethod
    def fresh(cls, like: Tensor) -> GateState:
        """Before the first token of rows whose hidden states are `like` (B, ..., D)."""
        rows, device = like.shape[0], like.device
        blank = torch.zeros(rows, like.shape[-1], device=device)
        return cls(blank, blank[:, :0], torch.zeros(rows, dtype=torch.long, device=device), no_tail(rows, device))

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
        """What `tensors` gave, or None of none. Earlier versions kept no tail."""
        if not tensors:
            return None
        return cls(**{"tail": no_tail(tensors["seen"].shape[0], tensors["seen"].device), **tensors})

    @staticmethod
    def expected(found: dict[str, Tensor], rows: int, width: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and dtypes of the tensors that a file must hold where it holds `found`. width: D."""
        if "sums" not in found:
            return {}
        near = found.get("near")
        memories = near.shape[-1] if near is not None and near.ndim else 0
        tail = {"tail": ((rows, TAIL), torch.long)} if "tail" in found else {}  # earlier versions kept none
        return {
            "sums": ((rows, width), torch.float32),
            "near": ((rows, memories), torch.float32),
            "seen": ((rows,), torch.long),
            **tail,
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
    openers: Tensor | None = None  # (B or 1, L) what a user's turn opens with (`turns`); None: turns are not told apart

    @property
    def by_turn(self) -> Tensor:
        """Which gates depend on the turn alone, (B or 1, M) bool: not those that are always open."""
        if self.openers is None:
            return torch.zeros_like(self.closed, dtype=torch.bool)
        return (self.openers >= 0).any(-1, keepdim=True) & (self.closed >= -1)

    def select(self, rows: Tensor) -> Gates:
        keys, closed, opened = (_rows(tensor, rows) for tensor in (self.keys, self.closed, self.opened))
        openers = None if self.openers is None else _rows(self.openers, rows)
        return Gates(self.background.select(rows), keys, closed, opened, openers)


def _rows(tensor: Tensor, rows: Tensor) -> Tensor:
    return tensor if tensor.shape[0] == 1 else tensor.index_select(0, rows)


def running_mean(
    hidden: Tensor, before: GateState | None, real: Tensor, starts: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The mean after every token, how many tokens it has seen, and the sums to carry on.

    Every hidden state counts with length 1: the first token of a text is often a hundred times longer than the rest.

    Parameters
    ----------
    hidden : (B, T, D), real tokens first in every row.
    real : (B,) how many of them are real, at least 0.
    starts : (B, T) bool, where a user's turn begins; the mean is of what came since, that token included. None where
        no turn begins.

    Returns
    -------
    means (B, T, D) float32, seen (B, T), and `GateState.sums` (B, D) after each row's last real token.
    """
    before = before or GateState.fresh(hidden)
    seen = _tokens_seen(before.seen, hidden.shape[1], starts)
    values = F.normalize(hidden.detach().float(), dim=-1)
    means, carried = _fading_means(values, before.sums, seen, real, REACH, starts is not None)
    return means, seen, carried


def _tokens_seen(before: Tensor, length: int, starts: Tensor | None) -> Tensor:
    """Tokens of the turn after every token of a call, (B, T). before: (B,) those before the call."""
    steps = torch.arange(length, device=before.device)
    seen = before[:, None] + steps + 1
    if starts is None:
        return seen
    latest = torch.where(starts, steps, -1).cummax(1).values
    return torch.where(latest >= 0, steps - latest + 1, seen)


def _fading_means(
    values: Tensor, before: Tensor, seen: Tensor, real: Tensor, reach: int, by_turn: bool
) -> tuple[Tensor, Tensor]:
    """Exponentially weighted means over about `reach` of the tokens seen, and the sums (B, X) to carry on.

    values: (B, T, X). seen: (B, T); `by_turn` says that it may be fewer than there are.
    """
    keep = 1 - 1 / reach
    steps = torch.arange(values.shape[1], device=values.device)
    age = steps[:, None] - steps
    weights = torch.where(age >= 0, keep ** age.clamp_min(0).float(), 0) / reach  # (T, T)
    earlier = (keep ** (steps + 1).float())[:, None] * before[:, None]  # (B, T, X)
    if by_turn:
        weights = torch.where(age < seen[..., None], weights, 0)  # (B, T, T)
        earlier = torch.where((seen > steps + 1)[..., None], earlier, 0)
    sums = weights @ values + earlier
    last = (real - 1).clamp_min(0)[:, None, None].expand(-1, 1, values.shape[-1])
    carried = torch.where((real > 0)[:, None], sums.gather(1, last).squeeze(1), before)
    return sums / (1 - keep ** seen.float())[..., None], carried


def scores(whitened: Tensor, keys: Tensor) -> Tensor:
    """Cosine to the nearest key of each memory. (B, T, D), (B or 1, M, K, D) -> (B, T, M)."""
    batch, memories, count, width = keys.shape
    cosine = whitened @ keys.reshape(batch, memories * count, width).mT
    return cosine.view(*cosine.shape[:2], memories, count).amax(-1)


def openings_and_state(
    hidden: Tensor, before: GateState | None, real: Tensor, gates: Gates, ids: Tensor | None = None
) -> tuple[Tensor, GateState]:
    """How far each gate is open, from 0 to 1, after every token: (B, T, M); and the state after the last.

    Parameters as of `running_mean`; ids : (B, T) the tokens, by which turns are found. None: no turn begins here.
    """
    before = (before or GateState.fresh(hidden)).of_memories(gates.keys.shape[1])
    starts = between = None
    if ids is not None and gates.openers is not None:
        starts, between = (found(ids, before.tail, gates.openers) for found in (turn_starts, between_turns))
    means, seen, sums = running_mean(hidden, before, real, starts)
    cosine = scores(gates.background.whitened(means), gates.keys)
    # What is about nothing yet, or has no number, resembles nothing.
    enough = seen >= _least_tokens(gates.openers)
    cosine = torch.where(enough[..., None] & cosine.isfinite(), cosine, -1)
    near, carried = _fading_means(cosine.clamp_min(0), before.near, seen, real, NEAR_REACH, starts is not None)
    last = seen.gather(1, (real - 1).clamp_min(0)[:, None]).squeeze(1)
    seen_so_far = torch.where(real > 0, last, before.seen)
    tail = no_tail(hidden.shape[0], hidden.device) if ids is None else tail_after(ids, before.tail, real)
    opening = openings(cosine, near, gates)
    if between is not None:
        # What a memory adds to the tokens that open a turn moves its answer, although the gate is shut in the turn.
        opening = torch.where(between[..., None] & gates.by_turn[:, None], 0, opening)
    return opening, GateState(sums, carried, seen_so_far, tail)


def _least_tokens(openers: Tensor | None) -> Tensor | int:
    """How many tokens a mean must be of before a gate opens: (B or 1, 1), or one number for all rows."""
    if openers is None:
        return MIN_TOKENS
    return torch.where((openers >= 0).any(-1, keepdim=True), MIN_TOKENS_OF_TURN, MIN_TOKENS)


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
