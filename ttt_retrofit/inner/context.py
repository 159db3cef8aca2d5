"""`ForwardContext`: what one forward of a segment brings to the hooks, and what the hooks came by.

A family's layers are called with the family's own arguments. All else that a hook, a mask or a backbone needs reaches
it through the one context here, which is local to the thread: several conversations may run on one model.
Memories and windows are opaque here: a slot each, which its own package fills and reads.
B batch rows, T tokens, D model width, I in features, O out features.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ..errors import UnsupportedModelError
from .fast_weights import Weights


@dataclass(frozen=True)
class FastTerms:
    """The fast weights of one forward, by site name; a site without an entry adds nothing.

    An entry may hold `FOLDED` alone: base plus fast matrix, (O, I), which takes the place of both.
    """

    weights: dict[str, Weights]
    rows: int
    record: bool = False  # build a graph from the first site on; the layers below stay without one
    own_norms: bool = False  # go back through norms as the family wrote them (`rms_norm`)
    withheld: dict[str, Tensor] = field(default_factory=dict)  # inputs kept from modules whose work is done elsewhere
    zeros: dict[Any, Tensor] = field(default_factory=dict)  # by shape and device, made once (`rms_norm`)
    seen: dict[str, Tensor] | None = None  # if given, each projection's input is put here, (B, T, I), without a graph
    added: set[str] = field(default_factory=set)  # sites that the forward has come by

    def check_called(self) -> None:
        """Raise unless the forward came by every site."""
        missed = sorted(self.weights.keys() - self.added)
        if missed:
            raise UnsupportedModelError(
                f"The forward never called {len(missed)} of the {len(self.weights)} modules that fast weights are "
                f"added to, such as that of {missed[0]}. Something computes with their weights around them, or skips "
                "their layers. Undo that (a patched forward, layerdrop), or unwrap() first."
            )


class MemorySlot(Protocol):
    """What `memory` brings to a forward."""

    def check_called(self) -> None:
        """Raise `UnsupportedModelError` unless the forward came by every place that memories add to."""
        ...


@dataclass
class ForwardContext:
    """What one forward brings; what is left out adds nothing."""

    fast: FastTerms | None = None
    memory: MemorySlot | None = None
    attended: Callable[[], Any] | None = None  # says, while a mask is built, what tokens attend to (`streaming.window`)
    second_order: bool = False  # attention keeps a graph that can itself be differentiated
    hidden_of: int | None = None  # the depth of the backbone whose output is wanted, 0 for the outermost
    hidden: Tensor | None = None  # that output, (B, T, D)


class _Current(threading.local):  # torch.compile traces this, and no ContextVar
    context: ForwardContext | None = None


_CURRENT = _Current()


def current() -> ForwardContext | None:
    """The context of the forward that runs in this thread."""
    return _CURRENT.context


@contextmanager
def entering(context: ForwardContext) -> Iterator[None]:
    """The forward inside runs in this context, and in none around it.

    Raises
    ------
    UnsupportedModelError
        When it came by none of the hooks of a place: fast weights or memories would have been left out.
    """
    around, _CURRENT.context = _CURRENT.context, context
    try:
        yield
    finally:
        _CURRENT.context = around
    for part in (context.memory, context.fast):
        if part is not None:
            part.check_called()
