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
    gate_state: RowState | None = None  # that before the chunk, if there was a memory

    @property
    def nbytes(self) -> int:
        tokens = self.ids.nbytes + self.positions.nbytes + self.learned.nbytes
        return tokens + (self.gate_state.nbytes if self.gate_state else 0)

    def fork(self) -> Pending:
        """The same, to go on with: what is written beyond `lengths` is not there for whoever has the shorter ones."""
        return replace(self, lengths=list(self.lengths))

    def select(self, rows: Tensor) -> Pending:
        ids, positions, learned = (tensor.index_select(0, rows) for tensor in (self.ids, self.positions, self.learned))
        gate_state = None if self.gate_state is None else self.gate_state.select(rows)
        return Pending(ids, positions, learned, [self.lengths[row] for row in rows.tolist()], gate_state)


@dataclass
class Sinks:
    """The first tokens of each row, and the index at whose position their keys now stand."""

    ids: Tensor  # (B, S)
    anchors: list[int]  # 0 until they are moved

    def fork(self) -> Sinks:
        return replace(self, anchors=list(self.anchors))

    def select(self, rows: Tensor) -> Sinks:
        return Sinks(self.ids.index_select(0, rows), [self.anchors[row] for row in rows.tolist()])


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
    """A list per row that only grows. A fork shares what is there and grows on its own: nothing is copied for it."""

    def __init__(self, rows: list[list[Any]]) -> None:
        self._rows, self._lengths = rows, [len(row) for row in rows]

    def extend(self, row: int, items: list[Any]) -> None:
        del self._rows[row][self._lengths[row] :]  # of a fork that was given up
        self._rows[row].extend(items)
        self._lengths[row] += len(items)

    def fork(self) -> Log:
        forked = Log([])
        forked._rows, forked._lengths = self._rows, list(self._lengths)
        return forked

    def rows(self) -> list[list[Any]]:
        return [row[:length] for row, length in zip(self._rows, self._lengths)]

    def select(self, rows: list[int]) -> Log:
        own = self.rows()
        return Log([list(own[row]) for row in rows])
