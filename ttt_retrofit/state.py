"""What each row of a conversation carries besides keys and values: fast weights, the unfinished chunk, its sinks.

B batch rows, C chunk, S sinks. Every tensor is batch-first, so that rows can be selected, repeated and saved alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .fast_weights import Weights
from .gates import Topic
from .inner_loop import SiteState


@dataclass
class Pending:
    """The tokens of each row's unfinished chunk, which an update will read again once the chunk is full."""

    ids: Tensor  # (B, C)
    positions: Tensor  # (B, C)
    learned: Tensor  # (B, C) bool: whether the token is a target of the inner loss
    lengths: list[int]  # tokens present, by row
    topic: Topic | None = None  # where each row stood before its chunk, if a memory listened

    @property
    def nbytes(self) -> int:
        tokens = self.ids.nbytes + self.positions.nbytes + self.learned.nbytes
        return tokens + (self.topic.nbytes if self.topic else 0)

    def select(self, rows: Tensor) -> Pending:
        ids, positions, learned = (tensor.index_select(0, rows) for tensor in (self.ids, self.positions, self.learned))
        topic = None if self.topic is None else self.topic.select(rows)
        return Pending(ids, positions, learned, [self.lengths[row] for row in rows.tolist()], topic)


@dataclass
class Sinks:
    """The first tokens of each row, and the rank at whose position their keys now stand."""

    ids: Tensor  # (B, S)
    anchors: list[int]  # 0 until they are moved

    def select(self, rows: Tensor) -> Sinks:
        return Sinks(self.ids.index_select(0, rows), [self.anchors[row] for row in rows.tolist()])


@dataclass
class FastState:
    """Fast weights of all sites and the number of updates each row has had; `sites` is empty before the first."""

    sites: dict[str, SiteState] = field(default_factory=dict)
    steps: Tensor | None = None  # (B,)
    _prepared: dict[str, Weights] = field(default_factory=dict)
    _versions: Any = None

    def prepared(self, versions: Any, prepare: Callable[[FastState], dict[str, Weights]]) -> dict[str, Weights]:
        """The weights as a forward applies them, made once per update, and per version of the base, not per token."""
        if not self._prepared or self._versions != versions:
            self._prepared, self._versions = prepare(self), versions
        return self._prepared

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a unique name, for counting, selecting and saving."""
        named = {} if self.steps is None else {"steps": self.steps}
        for site, state in self.sites.items():
            for name, weight in state.weights.items():
                named[f"{site}|{name}"] = weight
                for slot, value in state.optimizer[name].items():
                    named[f"{site}|{name}|{slot}"] = value
        return named

    @property
    def nbytes(self) -> int:
        prepared = (weight for weights in self._prepared.values() for weight in weights.values())
        # Prepared weights of the same dtype may be the very tensors.
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.tensors().values(), *prepared)}
        return sum(unique.values())

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> FastState:
        state = cls(steps=named.get("steps"))
        for key, value in named.items():
            if key == "steps":
                continue
            site, name, *slot = key.split("|")
            entry = state.sites.setdefault(site, SiteState({}, {}))
            entry.optimizer.setdefault(name, {})
            if slot:
                entry.optimizer[name][slot[0]] = value
            else:
                entry.weights[name] = value
        return state

    def detach(self) -> FastState:
        return FastState.from_tensors({key: value.detach() for key, value in self.tensors().items()})

    def replace_rows(self, rows: Tensor, other: FastState) -> FastState:
        """These weights with the rows `rows` taken from `other`, which holds only those."""
        new = other.tensors()
        return FastState.from_tensors({key: old.index_copy(0, rows, new[key]) for key, old in self.tensors().items()})

    def select(self, rows: Tensor) -> FastState:
        return FastState.from_tensors({key: value.index_select(0, rows) for key, value in self.tensors().items()})
