"""`Answering`: the one thread that generates. Requests that wait are answered together, each with its own memory.

It knows nothing of users or of the protocol: a `Work` is token ids, a memory, and where the text goes.
B batch rows, L tokens so far.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from ..consolidation.writer import ends
from ..errors import InputError
from ..memory.memory import Memory
from ..messages import prompt_ids
from .sampling import Choosing, Sampling
from .spelling import Spelling

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Ended:
    """The last thing that is told of an answer."""

    reason: str  # "stop" or "length"; "cancelled" to whoever still listens
    tokens: int  # written


class Full(Exception):
    """As many requests as may be are waiting or being answered."""


@dataclass(eq=False)
class Work:
    """One answer to be written.

    Attributes
    ----------
    tell : called in the answering thread with each new piece of text, and at last with `Ended` or an exception.
    """

    ids: list[int]
    memory: Memory | None
    sampling: Sampling
    most: int
    spelling: Spelling
    tell: Callable[[str | Ended | Exception], object]
    written: int = 0
    ended: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)

    def take(self, token: int, last: set[int]) -> None:
        """A token was written."""
        self.written += 1
        new = self.spelling.add(token)
        if new:
            self.tell(new)
        if self.cancelled.is_set():
            self.end("cancelled")
        elif self.spelling.stopped or token in last:
            self.end("stop")
        elif self.written >= self.most:
            self.end("length")

    def end(self, reason: str) -> None:
        self.ended = True
        rest = self.spelling.end()
        if rest:
            self.tell(rest)
        self.tell(Ended("stop" if self.spelling.stopped else reason, self.written))

    def fail(self, error: Exception) -> None:
        if not self.ended:
            self.ended = True
            self.tell(error)


class Answering:
    """Starts with `start`, and ends with `stop`.

    Parameters
    ----------
    batch : requests answered together, at most; each carries its own fast weights.
    most : requests waiting or being answered, at most.
    split_special_tokens : special tokens that a message spells are text, see `messages.prompt_ids`.

    Raises
    ------
    InputError
        For a tokenizer without a chat template.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        batch: int,
        most: int,
        split_special_tokens: bool = True,
    ) -> None:
        if tokenizer.chat_template is None:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} has no chat template, so messages cannot be put to the "
                "model. Serve a model that was tuned for chat, or set tokenizer.chat_template."
            )
        # Consolidations use the tokenizer at the same time; its settings are not safe to share between threads.
        self.model, self.tokenizer = model, deepcopy(tokenizer)
        self.batch, self.most, self.split_special_tokens = batch, most, split_special_tokens
        self._last = ends(model, tokenizer)
        self._waiting: deque[Work] = deque()
        self._writing: list[Work] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ttt-answer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the token that is being written; what is not finished is cancelled."""
        with self._changed:
            self._stopped = True
            for work in (*self._writing, *self._waiting):
                work.cancelled.set()
            self._changed.notify()
        self._thread.join()

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a conversation that waits for an answer.

        Raises
        ------
        InputError
            When the chat template does not take these messages.
        """
        return prompt_ids(self.tokenizer, messages, split_special_tokens=self.split_special_tokens)

    def submit(self, work: Work) -> None:
        """Have it answered as soon as may be.

        Raises
        ------
        Full
            When too many wait.
        """
        with self._changed:
            if self._stopped or len(self._waiting) + sum(not w.ended for w in self._writing) >= self.most:
                raise Full
            self._waiting.append(work)
            self._changed.notify()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._writing = []
                self._changed.wait_for(lambda: self._waiting or self._stopped)
                if not self._waiting:
                    return
                self._writing = self._next()
            self._answer(self._writing)

    def _next(self) -> list[Work]:
        """Those that have waited longest; the memories of one batch listen at one layer."""
        chosen: list[Work] = []
        layers: set[str] = set()
        while self._waiting and len(chosen) < self.batch:
            layers |= {m.layer for m in [self._waiting[0].memory] if m is not None and m.entries}
            if len(layers) > 1:
                break
            chosen.append(self._waiting.popleft())
        return chosen

    def _answer(self, works: list[Work]) -> None:
        for work in works:
            if work.cancelled.is_set():
                work.end("cancelled")
        works = [work for work in works if not work.ended]
        if not works:
            return
        try:
            self._write(works)
        except InputError as error:
            if len(works) == 1 or any(work.written for work in works):
                self._failed(works, error)
                return
            for work in works:  # one of them cannot be answered, such as one that is too long; the others can
                self._answer([work])
        except Exception as error:
            logger.exception("An answer failed.")
            self._failed(works, error)

    @staticmethod
    def _failed(works: list[Work], error: Exception) -> None:
        for work in works:
            work.fail(error)

    def _write(self, works: list[Work]) -> None:
        longest = max(len(work.ids) for work in works)
        ids = torch.zeros(len(works), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, work in enumerate(works):  # the last tokens stand in one column
            ids[row, longest - len(work.ids) :] = torch.tensor(work.ids)
            mask[row, longest - len(work.ids) :] = 1
        self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            memories=[work.memory for work in works],
            max_new_tokens=max(work.most for work in works),
            do_sample=False,
            num_beams=1,
            pad_token_id=0,  # any token will do: nobody reads on in a row that has ended
            logits_processor=[Choosing([work.sampling for work in works])],
            stopping_criteria=StoppingCriteriaList([_Telling(works, self._last)]),
        )


class _Telling(StoppingCriteria):
    """Hands on each row's new token, and stops the rows that have ended."""

    def __init__(self, works: list[Work], last: set[int]) -> None:
        self.works, self.last = works, last

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """input_ids: (B, L)."""
        for work, token in zip(self.works, input_ids[:, -1].tolist()):
            if not work.ended:
                work.take(token, self.last)
        return torch.tensor([work.ended for work in self.works], device=input_ids.device)
