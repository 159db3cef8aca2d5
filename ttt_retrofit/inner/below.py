"""What enters a layer of a model: a forward up to there, whose layers above are not computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class _Reached(Exception):
    """The layer whose input was wanted has been reached."""


@contextmanager
def inputs_of(layer: nn.Module, *, last: bool = False) -> Iterator[list[Tensor]]:
    """What enters a layer in the forwards inside, (B, T, D) each.

    Parameters
    ----------
    last : the first such forward ends there, and with it the block.
    """
    reached: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        reached.append(args[0] if args else kwargs["hidden_states"])
        if last:
            raise _Reached

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield reached
    except _Reached:
        pass
    finally:
        handle.remove()
