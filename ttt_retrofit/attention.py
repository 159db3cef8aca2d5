"""Attention that can be differentiated twice, for the outer loop's exact gradients.

PyTorch's fused kernels have no second derivative; the math form does. `twice_differentiable` selects it for what runs
inside, and the window's attention asks `needs_second_order`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_SECOND_ORDER: ContextVar[bool] = ContextVar("ttt_second_order", default=False)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Within it, windowed attention keeps a graph that can itself be differentiated."""
    token = _SECOND_ORDER.set(True)
    try:
        yield
    finally:
        _SECOND_ORDER.reset(token)


def needs_second_order() -> bool:
    return _SECOND_ORDER.get()
