"""`Scheduler`: the one thread that runs the model for all requests, in time slices: nobody waits for a long one.

The task with the least virtual time runs next. A task is a prompt, of which it reads one chunk, or a batch of answers,
which it continues for a tenth of a second. Requests that end or are cancelled leave between two steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import InputError
from ..util.texts import end_tokens
from .batch_generator import BatchGenerator, GenerationRequest, Prefill
from .prompts import Prompts

logger = logging.get_logger(__name__)

TIME_SLICE = 0.1  # seconds of writing
LONG_PROMPT = 16  # chunks; of longer prompts one at a time is read, in addition to the batch


class Scheduler:
    """Starts with `start`, and ends with `stop`.

    Parameters
    ----------
    batch : requests answered together, at most, not counting one long prompt. Each carries its own fast
        weights.
    split_special_tokens : see `Prompts`.

    Raises
    ------
    InputError
        For a tokenizer without a chat template.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, batch: int, split_special_tokens: bool = True
    ) -> None:
        self.prompts = Prompts(tokenizer, split_special_tokens)
        self.model, self.tokenizer, self.batch = model, self.prompts.tokenizer, batch
        self._end_tokens = end_tokens(model, tokenizer)
        self._waiting: deque[GenerationRequest] = deque()
        self._prefills: list[Prefill] = []
        self._batches: list[BatchGenerator] = []
        self._virtual_time = 0.0  # of the task that ran last, before its step; new requests begin there
        self._changed = threading.Condition()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ttt-scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Accept no more requests and read no prompt further. Answers in progress continue until `stop`."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self) -> None:
        """End after the chunk or the token in progress. Unfinished requests are cancelled."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    @property
    def busy(self) -> bool:
        """Whether a request waits or is being answered."""
        return bool(self._waiting or self._prefills or self._batches)

    def prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """See `Prompts.ids`."""
        return self.prompts.ids(messages, tools)

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. After `close` it is cancelled at once."""
        with self._changed:
            if self._closing or self._stopped:
                request.finish("cancelled")
                return
            self._waiting.append(request)
            self._changed.notify()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._tasks or self._stopped)
                if self._stopped:
                    break
                self._drop_cancelled()
                self._admit()
            if self._tasks:
                self._step(self._next())
        for request in (*self._waiting, *(request for task in self._tasks for request in task.requests)):
            request.finish("cancelled")

    @property
    def _tasks(self) -> list[Prefill | BatchGenerator]:
        return [*self._prefills, *self._batches]

    def _drop_cancelled(self) -> None:
        unwritten = [*self._waiting, *(prefill.request for prefill in self._prefills)]
        for request in (*unwritten, *(request for batch in self._batches for request in batch.requests)):
            if not request.finished and (request.cancelled.is_set() or (self._closing and request in unwritten)):
                request.finish("cancelled")
        self._waiting = deque(request for request in self._waiting if not request.finished)
        self._drop_finished()

    def _drop_finished(self) -> None:
        self._prefills = [prefill for prefill in self._prefills if not prefill.request.finished]
        for batch in self._batches:
            batch.drop_finished()
        self._batches = [batch for batch in self._batches if batch.requests]

    def _admit(self) -> None:
        """Give free rows to those that have waited longest. Long prompts that are nearly read come first."""
        free = self.batch - sum(prefill.holds_row for prefill in self._prefills)
        free -= sum(len(batch.requests) for batch in self._batches)
        for prefill in self._prefills:
            if free > 0 and not prefill.holds_row and prefill.on_last_chunk:
                prefill.holds_row, free = True, free - 1
        reading_long = any(not prefill.holds_row for prefill in self._prefills)
        still_waiting: deque[GenerationRequest] = deque()
        for request in self._waiting:
            long = len(request.prompt_ids) > LONG_PROMPT * self.model.ttt.chunk_size
            if reading_long if long else free <= 0:
                still_waiting.append(request)
                continue
            reading_long, free = reading_long or long, free - (not long)
            prefill = Prefill(self.model, request, self._end_tokens, holds_row=not long)
            prefill.virtual_time = self._virtual_time
            self._prefills.append(prefill)
        self._waiting = still_waiting

    def _next(self) -> Prefill | BatchGenerator:
        """The task with the least virtual time. The last chunk of a long prompt waits for a row."""
        ready = [
            task for task in self._tasks if isinstance(task, BatchGenerator) or task.holds_row or not task.on_last_chunk
        ]
        return min(ready, key=lambda task: (task.virtual_time, task.tokens_left if isinstance(task, Prefill) else 0))

    def _step(self, task: Prefill | BatchGenerator) -> None:
        self._virtual_time = max(self._virtual_time, task.virtual_time)
        begun = time.monotonic()

        def should_yield() -> bool:
            others = self._waiting or len(self._tasks) > 1
            return self._stopped or bool(others and time.monotonic() - begun >= TIME_SLICE)

        try:
            task.step(should_yield)
            task.virtual_time += (time.monotonic() - begun) / task.weight
            if isinstance(task, Prefill) and not task.tokens_left:
                self._begin_writing(task)
            self._drop_finished()
        except InputError as error:
            self._fail(task, error)
        except Exception as error:
            logger.exception("An answer failed.")
            self._fail(task, error)

    def _begin_writing(self, prefill: Prefill) -> None:
        self._prefills.remove(prefill)
        if prefill.request.finished:
            return
        batch = next((batch for batch in self._batches if batch.accepts(prefill.request)), None)
        if batch is None:
            self._batches.append(BatchGenerator(prefill))
        else:
            batch.add(prefill)

    def _fail(self, task: Prefill | BatchGenerator, error: Exception) -> None:
        for request in task.requests:
            request.fail(error)
        self._drop_finished()
