"""What the model does in one step: it reads a chunk of one prompt, or writes some tokens of several answers.

This file knows a model, and neither threads nor users. A `GenerationRequest` is token ids, a memory, and where the text
goes. B batch rows, L tokens so far, V vocabulary.
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
from .admission import Slot
from .detokenizer import IncrementalDetokenizer
from .sampling import Sampling, SamplingProcessor


@dataclass(frozen=True)
class Finished:
    """The last event of an answer."""

    reason: str  # "stop", "length" or "cancelled"
    tokens: int  # written


@dataclass(eq=False)
class GenerationRequest:
    """One answer to be written.

    Attributes
    ----------
    emit : called in the scheduler's thread with each new piece of text, and at last with `Finished` or an exception.
    slot : is released when the answer has ended.
    """

    prompt_ids: list[int]
    memory: Memory | None
    sampling: Sampling
    max_new_tokens: int
    detokenizer: IncrementalDetokenizer
    emit: Callable[[str | Finished | Exception], object]
    slot: Slot | None = None
    tokens: list[int] = field(default_factory=list)  # written
    finished: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)

    def append(self, token: int, end_tokens: set[int]) -> None:
        """Take the next token of the answer."""
        self.tokens.append(token)
        new = self.detokenizer.add(token)
        if new:
            self.emit(new)
        if self.cancelled.is_set():
            self.finish("cancelled")
        elif self.detokenizer.stopped or token in end_tokens:
            self.finish("stop")
        elif len(self.tokens) >= self.max_new_tokens:
            self.finish("length")

    def finish(self, reason: str) -> None:
        rest = self.detokenizer.end()
        if rest:
            self.emit(rest)
        self._emit_last(Finished("stop" if self.detokenizer.stopped else reason, len(self.tokens)))

    def fail(self, error: Exception) -> None:
        if not self.finished:
            self._emit_last(error)

    def _emit_last(self, event: Finished | Exception) -> None:
        self.finished = True
        if self.slot is not None:
            self.slot.release()
        self.emit(event)


class Prefill:
    """One prompt that is read a chunk at a time. The step of its last chunk also writes the first token.

    Attributes
    ----------
    virtual_time : seconds of its steps so far, divided by its weight.
    holds_row : counts as a row of the batch. A long prompt does not, until its last chunk.
    """

    def __init__(self, model: Any, request: GenerationRequest, end_tokens: set[int], holds_row: bool) -> None:
        self.model, self.request, self.end_tokens, self.holds_row = model, request, end_tokens, holds_row
        self.cache: TTTCache = model.new_cache()
        self.virtual_time = 0.0

    @property
    def requests(self) -> list[GenerationRequest]:
        return [self.request]

    @property
    def tokens_left(self) -> int:
        """Tokens to be read."""
        return len(self.request.prompt_ids) - self.cache.columns

    @property
    def on_last_chunk(self) -> bool:
        """Whether the next step is the last one."""
        chunk: int = self.model.ttt.chunk_size
        return self.tokens_left <= chunk

    @property
    def weight(self) -> float:
        """Its share of the time: a long prompt gets half as much as another request."""
        return 1.0 if self.holds_row else 0.5

    def step(self, should_yield: Callable[[], bool]) -> None:
        if self.on_last_chunk:
            _generate(self.model, self.requests, self.cache, self.tokens_left, self.end_tokens, lambda: True, {})
            return
        start, size = self.cache.columns, self.model.ttt.chunk_size
        ids = torch.tensor([self.request.prompt_ids[start : start + size]], device=self.model.device)
        with torch.no_grad():
            self.model(input_ids=ids, past_key_values=self.cache, memories=[self.request.memory], logits_to_keep=1)


class BatchGenerator:
    """Answers that are written together, each with its own memory.

    The memories of one batch have their gates at one layer.
    """

    def __init__(self, prefill: Prefill) -> None:
        self.model, self.end_tokens = prefill.model, prefill.end_tokens
        self.requests, self.cache = [prefill.request], prefill.cache
        self.virtual_time = prefill.virtual_time

    @property
    def weight(self) -> float:
        return float(len(self.requests))

    def accepts(self, request: GenerationRequest) -> bool:
        """Whether an answer can be written along with these."""
        memories = [r.memory for r in [*self.requests, request] if r.memory is not None and r.memory.entries]
        return len({memory.layer for memory in memories}) <= 1

    def add(self, prefill: Prefill) -> None:
        self.cache = join(self.model, self.model.new_cache(), [self.cache, prefill.cache])
        self.requests = [*self.requests, prefill.request]

    def drop_finished(self) -> None:
        rows = [row for row, request in enumerate(self.requests) if not request.finished]
        if len(rows) < len(self.requests):
            self.requests = [self.requests[row] for row in rows]
            if rows:
                stay(self.cache, rows, max(0 if r.memory is None else len(r.memory.entries) for r in self.requests))

    def step(self, should_yield: Callable[[], bool]) -> None:
        """Write at least one token of each answer, until an answer has ended or `should_yield` says so."""
        # The tokens read so far were the prompt; those written now are not.
        settings: dict[str, Any] = {"begin_suppress_tokens": []}
        if self.model.ttt.learn_from == "prompt":
            settings["learn_from"] = "none"
        _generate(self.model, self.requests, self.cache, 1, self.end_tokens, should_yield, settings)


def _generate(
    model: Any,
    requests: list[GenerationRequest],
    cache: TTTCache,
    unread: int,
    end_tokens: set[int],
    should_yield: Callable[[], bool],
    settings: dict[str, Any],
) -> None:
    """Continue answers from a cache that has read all of their tokens but the last `unread`."""
    longest = cache.columns + unread
    ids = torch.zeros(len(requests), longest, dtype=torch.long, device="cpu")  # (B, L)
    mask = torch.zeros_like(ids)
    for row, request in enumerate(requests):  # padded on the left
        so_far = [*request.prompt_ids, *request.tokens]
        ids[row, longest - len(so_far) :] = torch.tensor(so_far, device="cpu")
        mask[row, longest - len(so_far) :] = 1
    model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        past_key_values=cache,
        memories=[request.memory for request in requests],
        max_new_tokens=max(request.max_new_tokens - len(request.tokens) for request in requests),
        do_sample=False,
        num_beams=1,
        pad_token_id=0,  # any token will do: a row that has ended is dropped after this call
        logits_processor=[
            _MinNewTokens(requests, model, end_tokens),
            SamplingProcessor([request.sampling for request in requests]),
        ],
        stopping_criteria=StoppingCriteriaList([_EmitTokens(requests, end_tokens, should_yield)]),
        **{"min_new_tokens": 0, **settings},
    )


class _MinNewTokens(LogitsProcessor):
    """A checkpoint's `min_new_tokens`. transformers would count from the beginning of a step, not of an answer."""

    def __init__(self, requests: list[GenerationRequest], model: Any, end_tokens: set[int]) -> None:
        self.requests, self.end_tokens = requests, list(end_tokens)
        self.min_new_tokens: int = model.generation_config.min_new_tokens or 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores: (B, V)."""
        early = [row for row, request in enumerate(self.requests) if len(request.tokens) < self.min_new_tokens]
        if early:
            scores = scores.clone()
            ends = [token for token in self.end_tokens if token < scores.shape[-1]]
            scores[torch.tensor(early, device="cpu")[:, None], torch.tensor(ends, device="cpu")] = -torch.inf
        return scores


class _EmitTokens(StoppingCriteria):
    """Gives each request its new token. All rows stop when an answer has ended or `should_yield` says so."""

    def __init__(
        self, requests: list[GenerationRequest], end_tokens: set[int], should_yield: Callable[[], bool]
    ) -> None:
        self.requests, self.end_tokens, self.should_yield = requests, end_tokens, should_yield

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids: (B, L). Returns (B,), all of one value."""
        for request, token in zip(self.requests, input_ids[:, -1].tolist()):
            if not request.finished:
                request.append(token, self.end_tokens)
        done = any(request.finished for request in self.requests) or self.should_yield()
        return torch.full((len(self.requests),), done, device=input_ids.device)
