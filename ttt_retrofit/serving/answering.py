"""`Answering`: the one thread that reads and writes for all requests, in turns, so that nobody waits for a long one.

The request that has had the least time has the next turn: one chunk of a prompt, or a tenth of a second for the answers
that are being written. Requests that end or are cancelled leave between two turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..errors import InputError
from ..util.messages import prompt_ids
from ..util.texts import end_tokens
from .batch_generator import Reader, Work, Writers

logger = logging.get_logger(__name__)

TURN = 0.1  # seconds of writing
LONG = 16  # chunks; of longer prompts one at a time is read, beside the batch


class Answering:
    """Starts with `start`, and ends with `stop`.

    Parameters
    ----------
    batch : requests answered together, at most, not counting one long prompt. Each carries its own fast
        weights.
    split_special_tokens : special tokens that a message spells are text, see `messages.prompt_ids`.

    Raises
    ------
    InputError
        For a tokenizer without a chat template.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, batch: int, split_special_tokens: bool = True
    ) -> None:
        if tokenizer.chat_template is None:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} has no chat template, so messages cannot be put to the "
                "model. Serve a model that was tuned for chat, or set tokenizer.chat_template."
            )
        # Consolidations use the tokenizer at the same time; its settings are not safe to share between threads.
        self.model, self.tokenizer, self.batch = model, deepcopy(tokenizer), batch
        self.split_special_tokens = split_special_tokens
        self._last = end_tokens(model, tokenizer)
        self._waiting: deque[Work] = deque()
        self._readers: list[Reader] = []
        self._writers: list[Writers] = []
        self._now = 0.0  # time that whoever had the last turn had had before it
        self._changed = threading.Condition()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="ttt-answer", daemon=True)

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

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The token ids of a conversation that waits for an answer.

        Raises
        ------
        InputError
            When the chat template refuses these messages.
        """
        return prompt_ids(self.tokenizer, messages, split_special_tokens=self.split_special_tokens)

    def submit(self, work: Work) -> None:
        """Queue the work for an answer. After `close` it is cancelled at once."""
        with self._changed:
            if self._closing or self._stopped:
                work.end("cancelled")
                return
            self._waiting.append(work)
            self._changed.notify()

    # ------------------------------------------------------------------ the thread

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._parties or self._stopped)
                if self._stopped:
                    break
                self._drop_cancelled()
                self._let_in()
            if self._parties:
                self._take_turn(self._next())
        for work in (*self._waiting, *(work for party in self._parties for work in party.works)):
            work.end("cancelled")

    @property
    def _parties(self) -> list[Reader | Writers]:
        return [*self._readers, *self._writers]

    def _drop_cancelled(self) -> None:
        unwritten = [*self._waiting, *(reader.work for reader in self._readers)]
        for work in (*unwritten, *(work for writers in self._writers for work in writers.works)):
            if not work.ended and (work.cancelled.is_set() or (self._closing and work in unwritten)):
                work.end("cancelled")
        self._waiting = deque(work for work in self._waiting if not work.ended)
        self._drop_ended()

    def _drop_ended(self) -> None:
        self._readers = [reader for reader in self._readers if not reader.work.ended]
        for writers in self._writers:
            writers.drop_ended()
        self._writers = [writers for writers in self._writers if writers.works]

    def _let_in(self) -> None:
        """Those that have waited longest have the rows that are free: first long prompts that have been read."""
        free = self.batch - sum(not reader.beside for reader in self._readers)
        free -= sum(len(writers.works) for writers in self._writers)
        for reader in self._readers:
            if free > 0 and reader.beside and reader.at_last:
                reader.beside, free = False, free - 1
        beside = any(reader.beside for reader in self._readers)
        stays: deque[Work] = deque()
        for work in self._waiting:
            long = len(work.ids) > LONG * self.model.ttt.chunk_size
            if beside if long else free <= 0:
                stays.append(work)
                continue
            beside, free = beside or long, free - (not long)
            reader = Reader(self.model, work, self._last, beside=long)
            reader.spent = self._now
            self._readers.append(reader)
        self._waiting = stays

    def _next(self) -> Reader | Writers:
        """Who has had the least time. A long prompt's last turn is a row's, and waits for one."""
        ready = [party for party in self._parties if not (isinstance(party, Reader) and party.beside and party.at_last)]
        return min(ready, key=lambda party: (party.spent, party.left if isinstance(party, Reader) else 0))

    def _take_turn(self, party: Reader | Writers) -> None:
        self._now = max(self._now, party.spent)
        begun = time.monotonic()

        def over() -> bool:
            others = self._waiting or len(self._parties) > 1
            return self._stopped or bool(others and time.monotonic() - begun >= TURN)

        try:
            party.turn(over)
            party.spent += (time.monotonic() - begun) / party.share
            if isinstance(party, Reader) and not party.left:
                self._begin_writing(party)
            self._drop_ended()
        except InputError as error:
            self._failed(party, error)
        except Exception as error:
            logger.exception("An answer failed.")
            self._failed(party, error)

    def _begin_writing(self, reader: Reader) -> None:
        self._readers.remove(reader)
        if reader.work.ended:
            return
        writers = next((writers for writers in self._writers if writers.takes(reader.work)), None)
        if writers is None:
            self._writers.append(Writers(reader))
        else:
            writers.add(reader)

    def _failed(self, party: Reader | Writers, error: Exception) -> None:
        for work in party.works:
            work.fail(error)
        self._drop_ended()
