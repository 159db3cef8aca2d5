"""What comes before the last turn of lessons: earlier turns of a chat, or a system prompt. It is read once.

A memory acts in the last turn alone (`memory.turns`), so the keys and values of what comes before never change while it
learns. Layers below the memory are not computed again, and need none.
B lessons, P tokens of the longest past, T tokens after it, H heads, E features of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin

from ...memory.gates import GateState
from ...memory.turns import last_turn
from ...util.texts import common_beginning


@dataclass(frozen=True)
class LessonPast:
    """One beginning, as the base has read it."""

    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values of every layer, (1, H, P, E) each
    gates: GateState | None  # after it

    @property
    def length(self) -> int:
        return self.layers[0][0].shape[2]

    @classmethod
    def of(cls, cache: DynamicCache, length: int, gates: GateState | None) -> LessonPast | None:
        """None where a layer has not kept all of so many tokens, since a window has cut them."""
        layers = []
        for layer in cache.layers:
            assert isinstance(layer, CacheLayerMixin)
            if layer.keys is None or layer.values is None or layer.keys.shape[2] != length:
                return None
            layers.append((layer.keys, layer.values))
        return cls(tuple(layers), gates)


def beginnings(lessons: Sequence[Sequence[int]], opener: Sequence[int]) -> list[tuple[int, ...]]:
    """What comes before the last turn of each lesson; without an opener, what all of them begin with."""
    if not opener:
        common = tuple(common_beginning(lessons)) if lessons else ()
        return [common for _ in lessons]
    starts = (last_turn(lesson, opener) for lesson in lessons)
    return [tuple(x[: 0 if start is None else start + 1 - len(opener)]) for x, start in zip(lessons, starts)]


def together(pasts: Sequence[LessonPast | None], lowest: int, config: Any) -> DynamicCache:
    """One cache of all rows, from layer `lowest` up; shorter pasts are padded before their first token.

    None stands for a lesson that is read from its first token.
    """
    longest = max(0 if past is None else past.length for past in pasts)
    known = next(past for past in pasts if past is not None)
    cache = DynamicCache(config=config)
    for index, like in enumerate(known.layers):
        if index < lowest:  # is not computed, and only asked how many tokens there are
            blank = like[0].new_zeros(1, 1, longest, 1).expand(len(pasts), -1, -1, -1)
            cache.update(blank, blank, index)
        else:
            both = zip(*(_padded(like if past is None else past.layers[index], past, longest) for past in pasts))
            keys, values = (torch.cat(rows) for rows in both)
            cache.update(keys, values, index)
    return cache


def _padded(layer: tuple[Tensor, Tensor], past: LessonPast | None, longest: int) -> list[Tensor]:
    """Keys and values (1, H, P, E) of one past; zeros for none, in the shapes of another one's `layer`."""
    if past is None:
        return [tensor.new_zeros(1, tensor.shape[1], longest, tensor.shape[3]) for tensor in layer]
    return [F.pad(tensor, (0, 0, longest - tensor.shape[2], 0)) for tensor in layer]
