"""Keys and values of what earlier prompts began with. A writer reads the examples it always shows once.

T tokens of a beginning.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, DynamicCache

from ..util.texts import common_beginning

KEPT = 4  # beginnings: of facts, of questions, of one question, of answers
SHORTEST = 16  # tokens that are worth a forward of their own


class PrefixCache:
    """The last few beginnings of one model, each with its cache."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tokens = 0  # processed so far
        self._kept: list[tuple[list[int], DynamicCache]] = []

    def begun(self, prompts: Sequence[Sequence[int]]) -> tuple[int, Cache]:
        """How many tokens all prompts begin with, leaving each one of its own at least; and a cache that holds them."""
        shared = common_beginning(prompts)
        if len(shared) < SHORTEST:
            return 0, DynamicCache(config=self.model.config)
        known, cache = self._nearest(shared)
        if known < len(shared):
            with torch.no_grad():
                ids = torch.tensor([shared[known:]], device=self.model.device)
                self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            self.tokens += len(shared) - known
            if not any(cache.is_sliding):  # what left a window cannot be given to another prompt
                self._keep(shared, cache)
                cache = copy.deepcopy(cache)
        return len(shared), cache

    def _nearest(self, shared: list[int]) -> tuple[int, DynamicCache]:
        """A copy of the kept cache that holds most of a beginning, cut to that."""
        best = max(self._kept, key=lambda kept: _alike(kept[0], shared), default=None)
        alike = 0 if best is None else _alike(best[0], shared)
        if best is None or alike < SHORTEST:
            return 0, DynamicCache(config=self.model.config)
        self._keep(*best)  # the last that is given up
        ids, cache = best[0], copy.deepcopy(best[1])
        if alike < len(ids):
            cache.crop(alike - len(ids))
        return alike, cache

    def _keep(self, ids: list[int], cache: DynamicCache) -> None:
        """In place of those that are a beginning of it."""
        others = [(known, other) for known, other in self._kept if _alike(known, ids) < len(known)]
        self._kept = [*others, (ids, cache)][-KEPT:]


def worth_sharing(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens several prompts begin with; 0 where that is not worth a forward of its own."""
    shared = len(common_beginning(prompts))
    return shared if shared >= SHORTEST and len(prompts) > 1 else 0


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
