"""What the memories of a batch add to a forward: low-rank terms on projections, each scaled by its gate.

They arrive in the `ForwardContext` for the time of one forward, as fast weights do, and hooks add them. A forward in
which every gate stays closed is the base's own, bit for bit.
B rows, T tokens, M memories, R ranks of all memories together, I in features, O out features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedModelError
from ..inner.context import current
from ..inner.fast_weights import add_batch_linear, batch_linear
from ..inner.hooks import Hook
from .gates import Gates, GateState, openings_and_state
from .turns import last_starts, no_tail


@dataclass(frozen=True)
class Term:
    """What all memories of a batch add at one projection."""

    a: Tensor  # (B or 1, R, I)
    b: Tensor  # (B or 1, O, R)
    owner: Tensor  # (R,) the memory each rank belongs to

    def select(self, rows: Tensor) -> Term:
        def of(tensor: Tensor) -> Tensor:
            return tensor if tensor.shape[0] == 1 else tensor.index_select(0, rows)

        return Term(of(self.a), of(self.b), self.owner)

    def __call__(self, onto: Tensor, x: Tensor, gates: Tensor | None) -> Tensor:
        """onto: (B, T, O), x: (B, T, I), gates: (B, T, M) or None where all are open."""
        low = batch_linear(x, self.a.to(x.dtype))
        if gates is not None:
            low = _scaled(low, gates[..., self.owner])
        return add_batch_linear(onto, low, self.b.to(x.dtype))


def _scaled(term: Tensor, gates: Tensor) -> Tensor:
    """A term times how far gates are open. Where they are shut it is zero, not a product: zero times NaN is NaN."""
    return torch.where(gates > 0, term * gates.to(term.dtype), 0)


@dataclass(frozen=True)
class MemoryBatch:
    """The memories of a batch, in the form that a forward applies."""

    layer: str  # dotted name of the decoder layer whose input the gates depend on
    gates: Gates
    terms: dict[str, Term]  # by the dotted name of the projection

    @cached_property
    def hooks(self) -> list[Hook]:
        """What must stand on a model for these memories to be added."""
        return hooks_for(self.layer, self.terms)

    def last_turns(self, ids: Tensor, lengths: Sequence[int], before: GateState | None) -> list[int]:
        """Where the last of the user's turns begins that begin in `ids` (B, T), by row; -1 where none does.

        lengths : real tokens by row; they come first. before : where the text stood.
        """
        openers = self.gates.openers
        if openers is None:
            return [-1] * len(lengths)
        tail = no_tail(len(lengths), openers.device) if before is None else before.tail.to(openers.device)
        return last_starts(ids.to(openers.device), lengths, tail, openers)

    def select(self, rows: Tensor) -> MemoryBatch:
        terms = {path: term.select(rows) for path, term in self.terms.items()}
        return MemoryBatch(self.layer, self.gates.select(rows), terms)


@dataclass
class MemoryForward:
    """One forward with memories, the memory slot of a `ForwardContext`, and what was found on the way."""

    batch: MemoryBatch
    before: GateState | None  # where the text stood
    lengths: list[int]  # real tokens by row; they come first
    ids: Tensor | None = None  # (B, T) the tokens; None where only their embeddings are known
    earlier: Sequence[int] = ()  # tokens by row, the first ones, that belong to turns before the last; () for none
    after: GateState | None = None
    openings: Tensor | None = None  # (B, T, M), None while every gate is shut
    inputs: dict[str, Tensor] = field(default_factory=dict)  # of projections, which a folded site withholds
    added: set[str] = field(default_factory=set)  # projections that terms were added to

    @classmethod
    def of_texts(cls, batch: MemoryBatch, before: GateState | None, lengths: list[int], ids: Tensor) -> MemoryForward:
        """A forward of all that there is of each text: memories act in its last turn."""
        begins = batch.last_turns(ids, lengths, before)
        return cls(batch, before, lengths, ids, [max(start, 0) for start in begins])

    @property
    def opened(self) -> list[bool]:
        """Whether a gate that depends on the turn alone was open at any real token, by row."""
        if self.openings is None:
            return [False] * len(self.lengths)
        real = torch.arange(self.openings.shape[1], device=self.openings.device) < _column(self.lengths, self.openings)
        counted = real[..., None] & self.batch.gates.by_turn[:, None]
        rows: list[bool] = ((self.openings > 0) & counted).flatten(1).any(1).tolist()
        return rows

    def check_called(self) -> None:
        """Raise unless the forward came by every place."""
        missed = [] if self.after is not None else [self.batch.layer]
        if self.openings is not None:
            missed += sorted(self.batch.terms.keys() - self.added)
        if missed:
            raise UnsupportedModelError(
                f"The forward never called {missed[0]}, where memories are added, nor {len(missed) - 1} more places. "
                "Something computes with their weights around them, or skips their layers. Undo that (a patched "
                "forward, layerdrop), or reset_memory()."
            )

    def find_gates(self, hidden: Tensor) -> None:
        """hidden: what enters the gates' layer, (B, T, D)."""
        with torch.no_grad():
            lengths = torch.tensor(self.lengths, device=hidden.device)
            hidden = hidden.reshape(len(self.lengths), -1, hidden.shape[-1])
            ids = None if self.ids is None else self.ids.to(hidden.device)
            openings, self.after = openings_and_state(hidden, self.before, lengths, self.batch.gates, ids)
            if any(self.earlier):
                steps = torch.arange(openings.shape[1], device=openings.device)
                shut = (steps < _column(self.earlier, openings))[..., None] & self.batch.gates.by_turn[:, None]
                openings = torch.where(shut, 0, openings)
            self.openings = openings if bool((openings > 0).any()) else None


def _column(numbers: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(numbers, device=like.device)[:, None]


def _memory_forward() -> MemoryForward | None:
    context = current()
    if context is None or context.memory is None:
        return None
    assert isinstance(context.memory, MemoryForward)
    return context.memory


@dataclass(frozen=True)
class GateHook(Hook):
    """On a decoder layer: finds how far gates are open from what enters it."""

    path: str

    def connect(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.find_gates, with_kwargs=True)

    @torch.compiler.disable
    def find_gates(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        forward = _memory_forward()
        if forward is not None and forward.batch.layer == self.path:
            forward.find_gates(args[0] if args else kwargs["hidden_states"])


@dataclass(frozen=True)
class MemoryHook(Hook):
    """On a projection: its output plus the memories' terms of its input."""

    path: str

    def connect(self, module: nn.Module) -> None:
        # Before a folded site withholds the input, and after it has put its own term in.
        module.register_forward_pre_hook(self.keep_input, prepend=True)
        module.register_forward_hook(self.add_term)

    @torch.compiler.disable
    def keep_input(self, module: nn.Module, args: tuple) -> None:
        forward = _memory_forward()
        if forward is not None and forward.openings is not None and self.path in forward.batch.terms:
            forward.inputs[self.path] = args[0]

    @torch.compiler.disable
    def add_term(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
        forward = _memory_forward()
        x = None if forward is None else forward.inputs.pop(self.path, None)
        if x is None:
            return None
        assert forward is not None
        forward.added.add(self.path)
        rows = len(forward.lengths)
        onto = output.reshape(rows, -1, output.shape[-1])
        term = forward.batch.terms[self.path]
        return term(onto, x.reshape(rows, -1, x.shape[-1]), forward.openings).view(output.shape)


def hooks_for(layer: str, projections: Iterable[str]) -> list[Hook]:
    """The hooks of memories whose gates depend on the input of `layer`, and whose terms are added to `projections`."""
    return [GateHook(layer), *map(MemoryHook, projections)]
