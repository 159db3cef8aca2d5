"""What rows of answers share: a bench, which is a model and one context after another, and rows that every bench has.

A row keeps something of the context, and answers from that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..systems.evict import Context, Kept, Score, keep_top, read, whole
from ..systems.kvzip import kvzip, kvzip_scores
from ..systems.streaming_llm import streaming_llm
from .loading import base_model, tokenizer_of
from .processes import failure


class Bench:
    """A model and one context after another; what several rows need of it is made once.

    A bench sets `ids`, the tokens (N,) of the context, when it takes one.
    """

    ids: Tensor
    made: tuple[str, ...] = ("context", "repeated")  # of one context

    def __init__(
        self, name: str, state: int, sinks: int, device: str = "cpu", dtype: str | torch.dtype = "auto"
    ) -> None:
        self.name, self.state, self.sinks = name, state, sinks  # tokens that every bounded state holds
        self.device, self.dtype = torch.device(device), dtype
        self.tokenizer = tokenizer_of(name)
        self.model = self.base()
        configured = self.model.generation_config.eos_token_id
        self.ends = {configured} if isinstance(configured, int) else set(configured)

    def base(self) -> Any:
        """The plain model."""
        return base_model(self.name, self.dtype, self.device)

    def forget(self, *made: str) -> None:
        for name in made or self.made:
            self.__dict__.pop(name, None)

    def start_again(self) -> None:
        """Forget all that was made of this context: a row that failed may have left it half changed."""
        self.forget()

    @property
    def scores(self) -> dict[str, Score]:
        """By which keys are scored while the context is read."""
        raise NotImplementedError

    @property
    def ending(self) -> list[int]:
        """The tokens between a context and what is written about it."""
        raise NotImplementedError

    def answer(self, kept: Kept) -> Any:
        """From what was kept."""
        raise NotImplementedError

    def answer_asked(self, score: str, recent: int) -> Any:
        """From what the question looks at, the last `recent` keys always among it."""
        raise NotImplementedError

    @cached_property
    def context(self) -> Context:
        return read(self.model, self.ids, self.scores)

    @cached_property
    def repeated(self) -> Tensor:
        """(L, G, N) scores of KVzip."""
        return kvzip_scores(self.model, self.tokenizer, self.context, self.ending)


def full(bench: Bench) -> Any:
    return bench.answer(whole(bench.context))


def streaming(sinks: bool, anchored: bool) -> Callable[[Bench], Any]:
    """The last keys, with the first ones or without."""

    def row(bench: Bench) -> Any:
        first = bench.sinks if sinks else 0
        return bench.answer(streaming_llm(bench.model, bench.ids, bench.state + 1 - first, first, anchored))

    return row


def evicting(score: str, recent: float = 0.0) -> Callable[[Bench], Any]:
    """The best keys by a score, and a share of the state for the last ones."""

    def row(bench: Bench) -> Any:
        scores = bench.context.scores[score]
        return bench.answer(keep_top(bench.context, scores, bench.state, recent=int(recent * bench.state)))

    return row


def evicting_asked(score: str, recent: float = 0.0) -> Callable[[Bench], Any]:
    """The same, chosen by the question."""
    return lambda bench: bench.answer_asked(score, int(recent * bench.state))


def repeating(bench: Bench) -> Any:
    return bench.answer(kvzip(bench.context, bench.repeated, bench.state))


def attempt(bench: Bench, row: Callable[[Any], Any], stored: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """What is stored of a row's answer, or why it cannot answer."""
    try:
        return stored(row(bench))
    except Exception as error:
        bench.start_again()
        return failure(error)
