"""The fast weights of all sites of a sequence, and how many steps they have taken.

B batch rows. Every tensor is batch-first, so that rows can be selected, repeated and saved alike.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .fast_weights import Weights
from .inner_loop import SiteState

Step = Callable[[dict[str, SiteState]], None]


class FastState:
    """Fast weights of all sites and the number of updates each row has had; `sites` is empty before the first.

    A step over large matrices is taken in place. `due` is one that has been decided and not yet been taken, or not to
    its end: whoever asks for the weights finishes it first. So an interrupt between two matrices loses nothing.
    """

    def __init__(
        self, sites: dict[str, SiteState] | None = None, steps: Tensor | None = None, due: Step | None = None
    ) -> None:
        """steps: (B,) updates by row, what is due included. due: takes the step of all sites; may be called again."""
        self._sites = {} if sites is None else sites
        self.steps = steps
        self._due = due
        self._prepared: dict[str, Weights] = {}
        self._versions: Any = None

    @property
    def sites(self) -> dict[str, SiteState]:
        self.settle()
        return self._sites

    def settle(self) -> None:
        """Take the step that is due, if there is one."""
        if self._due is not None:
            with torch.inference_mode(False), torch.no_grad():
                self._due(self._sites)
            self._due = None

    def replayed(self, take: Callable[[Callable[[], None]], None]) -> FastState:
        """The state after the step that was due here, decided anew in the same tensors; `take` is handed the step."""
        assert self.steps is not None and self._due is not None
        step = partial(self._due, self._sites)
        return FastState(self._sites, self.steps.clone(), lambda _: take(step))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: how far a step has come is known of these very tensors only."""
        self.settle()
        return vars(self)

    def prepared(self, versions: Any, prepare: Callable[[FastState], dict[str, Weights]]) -> dict[str, Weights]:
        """The weights as a forward applies them, made once per update, and per version of the base, not per token."""
        if not self._prepared or self._versions != versions:
            self._prepared, self._versions = prepare(self), versions
        return self._prepared

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a unique name, for counting, selecting and saving."""
        self.settle()
        return self._named()

    def _named(self) -> dict[str, Tensor]:
        named = {} if self.steps is None else {"steps": self.steps}
        for site, state in self._sites.items():
            for name, weight in state.weights.items():
                named[f"{site}|{name}"] = weight
                for slot, value in state.optimizer[name].items():
                    named[f"{site}|{name}|{slot}"] = value
        return named

    @property
    def nbytes(self) -> int:
        prepared = (weight for weights in self._prepared.values() for weight in weights.values())
        # Prepared weights of the same dtype may be the very tensors.
        # A step that is due is taken in place: it changes no size.
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in (*self._named().values(), *prepared)}
        return sum(unique.values())

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> FastState:
        sites: dict[str, SiteState] = {}
        for key, value in named.items():
            if key == "steps":
                continue
            site, name, *slot = key.split("|")
            entry = sites.setdefault(site, SiteState({}, {}))
            entry.optimizer.setdefault(name, {})
            if slot:
                entry.optimizer[name][slot[0]] = value
            else:
                entry.weights[name] = value
        return cls(sites, named.get("steps"))

    def detach(self) -> FastState:
        return FastState.from_tensors({key: value.detach() for key, value in self.tensors().items()})

    def replace_rows(self, rows: Tensor, other: FastState) -> FastState:
        """These weights with the rows `rows` taken from `other`, which holds only those."""
        new = other.tensors()
        return FastState.from_tensors({key: old.index_copy(0, rows, new[key]) for key, old in self.tensors().items()})

    def select(self, rows: Tensor) -> FastState:
        return FastState.from_tensors({key: value.index_select(0, rows) for key, value in self.tensors().items()})
