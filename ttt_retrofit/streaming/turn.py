"""What it takes to read a turn again without the memory that acted in it, once the next turn of the user begins.

What a memory adds to the tokens of a turn stays in their keys and values, and later turns attend to them. So the cache
of before is kept, from where the first gate opened, and every token read since.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from .state import Log
from .tokens import Tokens

C = TypeVar("C")


@dataclass
class Span:
    """Tokens that were read under the same settings."""

    ids: Log
    positions: Log | None  # None where real tokens are numbered
    learn: bool
    remembers: bool  # whether there was a memory

    def tokens(self, device: torch.device) -> Tokens:
        ids, positions = self.ids.rows(), None if self.positions is None else self.positions.rows()
        counts = list(map(len, ids))

        def padded(rows: list[list[int]]) -> Tensor:
            return torch.tensor([[*row, *[0] * (max(counts) - len(row))] for row in rows], device=device)

        return Tokens(padded(ids), None if positions is None else padded(positions), counts, None)

    def fork(self) -> Span:
        return replace(self, ids=self.ids.fork(), positions=None if self.positions is None else self.positions.fork())

    def select(self, rows: list[int]) -> Span:
        positions = None if self.positions is None else self.positions.select(rows)
        return replace(self, ids=self.ids.select(rows), positions=positions)


@dataclass
class Turn(Generic[C]):
    """The turn under way, of a batch in which a gate has opened since it began."""

    before: C  # the cache that it was read on top of
    rows: list[int]  # which of its rows each row continues
    opened: list[bool]  # whether a gate has opened since the row's turn began
    spans: list[Span] = field(default_factory=list)

    def add(self, ids: list[Tensor], positions: list[Tensor] | None, learn: bool, remembers: bool) -> None:
        """Tokens by row that have been read."""
        last = self.spans[-1] if self.spans else None
        kind = (learn, remembers, positions is None)
        if last is None or (last.learn, last.remembers, last.positions is None) != kind:
            last = Span(_blank(ids), None if positions is None else _blank(positions), learn, remembers)
            self.spans.append(last)
        for row, items in enumerate(ids):
            last.ids.extend(row, items)
        for row, numbers in enumerate(positions or ()):
            assert last.positions is not None
            last.positions.extend(row, numbers)

    def fork(self) -> Turn[C]:
        return replace(self, opened=list(self.opened), spans=[span.fork() for span in self.spans])

    def select(self, rows: list[int]) -> Turn[C]:
        spans = [span.select(rows) for span in self.spans]
        return Turn(self.before, [self.rows[row] for row in rows], [self.opened[row] for row in rows], spans)

    def described(self) -> dict[str, Any]:
        """All but the cache, as JSON has it."""
        spans = [
            {
                "ids": span.ids.rows(),
                "positions": None if span.positions is None else span.positions.rows(),
                "learn": span.learn,
                "remembers": span.remembers,
            }
            for span in self.spans
        ]
        return {"rows": self.rows, "opened": self.opened, "spans": spans}

    @classmethod
    def from_description(cls, before: C, found: dict[str, Any]) -> Turn[C]:
        """What `described` gave, on top of its cache."""
        spans = [
            Span(
                Log(span["ids"]),
                None if span["positions"] is None else Log(span["positions"]),
                span["learn"],
                span["remembers"],
            )
            for span in found["spans"]
        ]
        return cls(before, found["rows"], found["opened"], spans)


def _blank(rows: list[Tensor]) -> Log:
    return Log([[] for _ in rows])
