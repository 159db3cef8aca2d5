"""Caches the output of the layers below the fast weights, so that it is computed once for each chunk.

A chunk is read forwards, and once more on the way back. Nothing that is trained reaches the layers below the first site
(or below whatever else is trained), so the second reading begins above them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Output = Tensor | tuple[Any, ...]  # of a decoder layer


@contextmanager
def recording(below: list[nn.Module]) -> Iterator[list[Output]]:
    """Records the output of the topmost of the layers `below` in each forward inside."""
    kept: list[Output] = []
    if not below:
        yield kept
        return
    handle = below[-1].register_forward_hook(lambda module, args, output: kept.append(_detached(output)))
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def replaying(below: list[nn.Module], kept: list[Output]) -> Iterator[None]:
    """Forwards inside take the output of the layers `below` from `kept`, in the same order."""
    before = [vars(layer).get("forward") for layer in below]
    remaining = iter(kept)

    def hand_on(*args: Any, **kwargs: Any) -> Output:
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if isinstance(kept[0], tuple) else hidden

    for layer in below:
        layer.forward = hand_on if layer is not below[-1] else lambda *args, **kwargs: next(remaining)
    try:
        yield
    finally:
        for layer, forward in zip(below, before):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


def _detached(output: Output) -> Output:
    if isinstance(output, tuple):
        return tuple(part.detach() if isinstance(part, Tensor) else part for part in output)
    return output.detach()
