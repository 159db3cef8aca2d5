"""What a family's forward gives back, without the graph that it was computed with."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def drop_graph(output: Any) -> None:
    """The update has used the graph of this forward; what is handed on must not keep it alive."""
    for name, value in list(output.items()):
        if isinstance(value, Tensor):
            output[name] = value.detach()
        elif isinstance(value, tuple):
            output[name] = tuple(part.detach() if isinstance(part, Tensor) else part for part in value)
