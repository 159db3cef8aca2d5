"""What each row of a conversation carries besides keys, values and fast weights: the unfinished chunk, its sinks.

B batch rows, C chunk, S sinks. Every tensor is batch-first, so that rows can be selected, repeated and saved alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor


class RowState(Protocol):
    """What memories carry from one forward to the next, for each row. Only `memory` knows what is in it."""

    @property
    def nbytes(self) -> int: ...

    def at_start(self) -> Self:
        """That of the same rows before their first token."""
        ...

    def select(self, rows: Tensor) -> Self: ...

    def resized(self, memories: int) -> Self:
        """The same for a batch whose longest memory has so many entries."""
        ...

    def replace_rows(self, rows: Tensor, other: Self) -> Self:
        """This with the rows `rows` taken from `other`, which has as many rows and is the later one."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...


@dataclass
class Pending:
    """The tokens of each row's unfinished chunk, which an update will read again once the chunk is full."""

    ids: Tensor  # (B, C)
    positions: Tensor  # (B, C)
    learned: Tensor  # (B, C) bool: whether the token is a target of the inner loss
    lengths: list[int]  # tokens present, by row
    targets: list[int]  # those of them that are learned from, by row; the first has nothing before it
    gate_state: RowState | None = None  # that before the chunk, if there was a memory

    @property
    def nbytes(self) -> int:
        tokens = self.ids.nbytes + self.positions.nbytes + self.learned.nbytes
        return tokens + (self.gate_state.nbytes if self.gate_state else 0)

    def fork(self) -> Pending:
        """The same, to go on with: what is written beyond `lengths` is not there for whoever has the shorter ones."""
        return replace(self, lengths=list(self.lengths), targets=list(self.targets))

    def select(self, rows: Tensor, listed: list[int]) -> Pending:
        """rows: (R,) and the same as a list."""
        ids, positions, learned = (tensor.index_select(0, rows) for tensor in (self.ids, self.positions, self.learned))
        gate_state = None if self.gate_state is None else self.gate_state.select(rows)
        lengths, targets = ([counts[row] for row in listed] for counts in (self.lengths, self.targets))
        return Pending(ids, positions, learned, lengths, targets, gate_state)


@dataclass
class Sinks:
    """The first tokens of each row, and the index at whose position their keys now stand."""

    ids: Tensor  # (B, S)
    anchors: list[int]  # 0 until they are moved

    def fork(self) -> Sinks:
        return replace(self, anchors=list(self.anchors))

    def select(self, rows: Tensor, listed: list[int]) -> Sinks:
        """rows: (R,) and the same as a list."""
        return Sinks(self.ids.index_select(0, rows), [self.anchors[row] for row in listed])


@dataclass
class Held:
    """The last columns handed in, of which some rows have not read their token yet: those after the row had ended.

    Whether a later call's mask calls them real decides what becomes of them, as it does for a model without state.
    """

    ids: Tensor  # (B, S)
    unread: Tensor  # (B, S) bool

    def without(self, real: Tensor, past: int) -> Tensor:
        """A mask (B, W) of what is real, bool, less those of its first `past` columns that have not been read."""
        start = past - self.unread.shape[1]
        return torch.cat([real[:, :start], real[:, start:past] & ~self.unread, real[:, past:]], dim=1)

    def select(self, rows: Tensor) -> Held:
        return Held(self.ids.index_select(0, rows), self.unread.index_select(0, rows))


class Log:
    """Numbers by row, which only grow. A fork shares what is there and grows on its own: nothing is copied for it.

    Numbers that are on a device stay there until somebody looks at them.
    """

    def __init__(self, rows: list[list[Any]]) -> None:
        self._pieces: list[list[list[Any] | Tensor]] = [[row] if row else [] for row in rows]
        self._lengths = [len(pieces) for pieces in self._pieces]

    def extend(self, row: int, items: list[Any] | Tensor) -> None:
        """items: a list, or (N,), which nobody writes to."""
        del self._pieces[row][self._lengths[row] :]  # of a fork that was given up
        self._pieces[row].append(items)
        self._lengths[row] += 1

    def fork(self) -> Log:
        forked = Log([])
        forked._pieces, forked._lengths = self._pieces, list(self._lengths)
        return forked

    def rows(self) -> list[list[Any]]:
        """What is there, by row: waits for the device."""
        there = [pieces[:length] for pieces, length in zip(self._pieces, self._lengths)]
        places = [
            (row, place, piece)
            for row, pieces in enumerate(there)
            for place, piece in enumerate(pieces)
            if isinstance(piece, Tensor)
        ]
        if places:
            found = torch.cat([piece for _, _, piece in places]).tolist()
            for row, place, piece in places:
                fetched, found = found[: len(piece)], found[len(piece) :]
                self._pieces[row][place] = there[row][place] = fetched
        return [[item for piece in pieces for item in piece] for pieces in there]

    def select(self, rows: list[int]) -> Log:
        selected = Log([])
        selected._pieces = [self._pieces[row][: self._lengths[row]] for row in rows]
        selected._lengths = [self._lengths[row] for row in rows]
        return selected
