"""What is done for requests in one turn: a chunk of one prompt is read, or some tokens are written for several answers.

It knows a model, and neither threads nor users: a `Work` is token ids, a memory, and where the text goes.
B batch rows, L tokens so far.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria, StoppingCriteriaList

from ..memory.memory import Memory
from ..streaming.cache import TTTCache
from ..streaming.joining import join, stay
from .detokenizer import Spelling
from .places import Place
from .sampling import Choosing, Sampling


@dataclass(frozen=True)
class Ended:
    """The last thing that is told of an answer."""

    reason: str  # "stop" or "length"; "cancelled" to whoever still listens
    tokens: int  # written


@dataclass(eq=False)
class Work:
    """One answer to be written.

    Attributes
    ----------
    tell : called in the answering thread with each new piece of text, and at last with `Ended` or an exception.
    place : is given back when the answer has ended.
    """

    ids: list[int]  # of the prompt
    memory: Memory | None
    sampling: Sampling
    most: int
    spelling: Spelling
    tell: Callable[[str | Ended | Exception], object]
    place: Place | None = None
    tokens: list[int] = field(default_factory=list)  # written
    ended: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)

    def take(self, token: int, last: set[int]) -> None:
        """A token was written."""
        self.tokens.append(token)
        new = self.spelling.add(token)
        if new:
            self.tell(new)
        if self.cancelled.is_set():
            self.end("cancelled")
        elif self.spelling.stopped or token in last:
            self.end("stop")
        elif len(self.tokens) >= self.most:
            self.end("length")

    def end(self, reason: str) -> None:
        rest = self.spelling.end()
        if rest:
            self.tell(rest)
        self._told(Ended("stop" if self.spelling.stopped else reason, len(self.tokens)))

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self._told(error)

    def _told(self, news: Ended | Exception) -> None:
        self.ended = True
        if self.place is not None:
            self.place.free()
        self.tell(news)


class Reader:
    """One prompt that is read a chunk at a time; its last turn writes the first token, too.

    Attributes
    ----------
    spent : seconds of turns so far, as the scheduler counts them.
    beside : a long prompt, which holds no row of a batch yet.
    """

    def __init__(self, model: Any, work: Work, last: set[int], beside: bool) -> None:
        self.model, self.work, self.last, self.beside = model, work, last, beside
        self.cache: TTTCache = model.new_cache()
        self.spent = 0.0

    @property
    def works(self) -> list[Work]:
        return [self.work]

    @property
    def left(self) -> int:
        """Tokens to be read."""
        return len(self.work.ids) - self.cache.columns

    @property
    def at_last(self) -> bool:
        """Whether the next turn is the last one."""
        chunk: int = self.model.ttt.chunk_size
        return self.left <= chunk

    @property
    def share(self) -> float:
        """How much of the time it gets: a long prompt half as much as another request."""
        return 0.5 if self.beside else 1.0

    def turn(self, over: Callable[[], bool]) -> None:
        if self.at_last:
            _write(self.model, self.works, self.cache, self.left, self.last, lambda: True, {})
            return
        start, size = self.cache.columns, self.model.ttt.chunk_size
        ids = torch.tensor([self.work.ids[start : start + size]], device=self.model.device)
        with torch.no_grad():
            self.model(input_ids=ids, past_key_values=self.cache, memories=[self.work.memory], logits_to_keep=1)


class Writers:
    """Answers that are written together, each with its own memory; the memories of one batch listen at one layer."""

    def __init__(self, reader: Reader) -> None:
        self.model, self.last = reader.model, reader.last
        self.works, self.cache = [reader.work], reader.cache
        self.spent = reader.spent

    @property
    def share(self) -> float:
        return float(len(self.works))

    def takes(self, work: Work) -> bool:
        """Whether an answer can be written along with these."""
        listened = {w.memory.layer for w in [*self.works, work] if w.memory is not None and w.memory.entries}
        return len(listened) <= 1

    def add(self, reader: Reader) -> None:
        self.cache = join(self.model, self.model.new_cache(), [self.cache, reader.cache])
        self.works = [*self.works, reader.work]

    def drop_ended(self) -> None:
        rows = [row for row, work in enumerate(self.works) if not work.ended]
        if len(rows) < len(self.works):
            self.works = [self.works[row] for row in rows]
            if rows:
                stay(self.cache, rows, max(0 if w.memory is None else len(w.memory.entries) for w in self.works))

    def turn(self, over: Callable[[], bool]) -> None:
        """Write until one has ended, or the turn is over; a token of each at least."""
        # What has been read was the prompt; what is written now is not.
        settings: dict[str, Any] = {"begin_suppress_tokens": []}
        if self.model.ttt.learn_from == "prompt":
            settings["learn_from"] = "none"
        _write(self.model, self.works, self.cache, 1, self.last, over, settings)


def _write(
    model: Any,
    works: list[Work],
    cache: TTTCache,
    unread: int,
    last: set[int],
    over: Callable[[], bool],
    settings: dict[str, Any],
) -> None:
    """Go on with answers, from a cache that has read all of their tokens but the last `unread`."""
    longest = cache.columns + unread
    ids = torch.zeros(len(works), longest, dtype=torch.long, device="cpu")
    mask = torch.zeros_like(ids)
    for row, work in enumerate(works):  # the last tokens stand in one column
        so_far = [*work.ids, *work.tokens]
        ids[row, longest - len(so_far) :] = torch.tensor(so_far, device="cpu")
        mask[row, longest - len(so_far) :] = 1
    model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        memories=[work.memory for work in works],
        max_new_tokens=max(work.most - len(work.tokens) for work in works),
        do_sample=False,
        num_beams=1,
        pad_token_id=0,  # any token will do: nobody reads on in a row that has ended
        logits_processor=[_AtLeast(works, model, last), Choosing([work.sampling for work in works])],
        stopping_criteria=StoppingCriteriaList([_Telling(works, last, over)]),
        **{"min_new_tokens": 0, **settings},
    )


class _AtLeast(LogitsProcessor):
    """A checkpoint's `min_new_tokens`: transformers counts them from the beginning of a turn, not of an answer."""

    def __init__(self, works: list[Work], model: Any, last: set[int]) -> None:
        self.works, self.last = works, list(last)
        self.least: int = model.generation_config.min_new_tokens or 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V)."""
        early = [row for row, work in enumerate(self.works) if len(work.tokens) < self.least]
        if early:
            scores = scores.clone()
            ends = [token for token in self.last if token < scores.shape[-1]]
            scores[torch.tensor(early, device="cpu")[:, None], torch.tensor(ends, device="cpu")] = -torch.inf
        return scores


class _Telling(StoppingCriteria):
    """Hands on each row's new token, and stops all of them where one has ended or the turn is over."""

    def __init__(self, works: list[Work], last: set[int], over: Callable[[], bool]) -> None:
        self.works, self.last, self.over = works, last, over

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids: (B, L)."""
        for work, token in zip(self.works, input_ids[:, -1].tolist()):
            if not work.ended:
                work.take(token, self.last)
        done = any(work.ended for work in self.works) or self.over()
        return torch.full((len(self.works),), done, device=input_ids.device)
