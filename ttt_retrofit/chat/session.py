"""`ChatSession`: a conversation that becomes a memory while it is idle.

Recent turns stay in the prompt. Older ones are consolidated in idle time. Their messages, and the KV cache, are dropped
only when the memory is accepted. Everything survives a restart from the session's store. One session at a time may use
a store: a session that finds it changed by another raises and writes nothing. Reading and writing the store happens
under a lock, and the session's attributes change only after the disk has.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..consolidation.config import ConsolidationConfig
from ..consolidation.control import Progress
from ..consolidation.facts.writers import FactWriter, writer_of
from ..consolidation.job import ConsolidationJob
from ..consolidation.study.review import Policy, Review, Reviewer
from ..errors import Cancelled, InputError
from ..memory.memory import Memory
from ..memory.report import Report
from ..memory.store import MemoryStore
from ..model.modeling import TTTMixin
from ..streaming.cache import TTTCache
from ..util.display import Rows
from ..util.files import (
    list_bytes,
    private_directory,
    remove_unfinished,
    staged,
    write_list,
)
from ..util.given import check_tokenizer
from ..util.messages import Message, prompt_ids
from .days import today, with_days, without_days
from .directory import LOCK, STORE, TURNS, WORK
from .known import NOTE_TOKENS
from .owned import OwnedMemory


class ChatSession(OwnedMemory):
    """A chat with one user.

    Parameters
    ----------
    model : a converted model. Several sessions may share it; each uses its own memory.
    tokenizer : with a chat template.
    store : a directory for this user alone. It is made if it does not exist.
    system : a system prompt, part of every prompt and never consolidated.
    keep_turns : how many of the last turns (a question and its answer) stay in the prompt word for word.
    config : how older turns are consolidated.
    questions : what will be asked later, in place of questions that the model writes.
    writer : who writes instead of the model, see `consolidate`. A server is sent the turns that become memory.
    review, policy : which facts may become memory, see `consolidate`. The thread that consolidates calls `review`.
    note_tokens : of facts in words before a conversation, at most: what was told in earlier conversations and is not
        memory yet, and what the weights do not hold. 0 is no such note.
    split_special_tokens : encode special tokens that a message contains as text, see `messages.prompt_ids`.

    Attributes
    ----------
    messages : the messages that are not yet in the memory, each with the day it was said.
    memory : the memory of this session, or None.
    last_report : the report of the last consolidation that ended, accepted or not.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        store: str | os.PathLike[str],
        *,
        system: str | None = None,
        keep_turns: int = 2,
        config: ConsolidationConfig | None = None,
        questions: Sequence[str] | None = None,
        writer: tuple[PreTrainedModel, PreTrainedTokenizerBase] | str | FactWriter | None = None,
        split_special_tokens: bool = True,
        review: Reviewer | None = None,
        policy: Policy | None = None,
        note_tokens: int = NOTE_TOKENS,
    ) -> None:
        check_tokenizer(tokenizer)
        if isinstance(model, (str, os.PathLike, PreTrainedModel)) and not isinstance(model, TTTMixin):
            raise InputError(
                f"ChatSession was given a {type(model).__name__}; expected a converted model, such as "
                "wrap(model, TTTConfig(learn_from='none'))."
            )
        if tokenizer.chat_template is None:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} has no chat template, so turns cannot be told apart. Set "
                "tokenizer.chat_template, or use model.generate() and model.consolidate() with plain text."
            )
        if keep_turns < 0:
            raise InputError(f"keep_turns={keep_turns}: expected 0 or more.")
        if note_tokens < 0:
            raise InputError(f"note_tokens={note_tokens}: expected 0 or more.")
        self.model, self.tokenizer, self.system, self.keep_turns = model, tokenizer, system, keep_turns
        self.config, self.questions = config or ConsolidationConfig(), questions
        self.writer, self.split_special_tokens = writer_of(writer), split_special_tokens
        self.review, self.note_tokens = Review(policy, review), note_tokens
        self.directory = private_directory(Path(store))
        self.store = MemoryStore(self.directory / STORE)
        self._lock = FileLock(self.directory / LOCK, mode=0o600)
        with self.locked():
            remove_unfinished(self.directory)
            self.memory = self.store.load()
            self._open_words()
            self._disk_state = self._read_disk_state()
        if self.memory is not None:
            model.check_memory(self.memory)
        self.last_report: Report | None = None
        self._job: ConsolidationJob | None = None
        self._rejected = self._in_job = 0  # messages in a consolidation that was rejected or failed; in the running one
        self._begins_anew = False  # the next message begins a conversation
        self._cache: TTTCache | None = None
        self._cached_ids: list[int] = []

    def _rows(self) -> Rows:
        memory, progress = self.memory, self.progress
        return {
            "store": str(self.directory),
            "messages": len(self.messages),
            "entries": 0 if memory is None else len(memory.entries),
            "consolidating": None if progress is None else progress.stage,
            "last_accepted": None if self.last_report is None else self.last_report.accepted,
        }

    # ------------------------------------------------------------------ turns

    def send(self, text: str, **generate_kwargs: Any) -> str:
        """Send a message and return the answer. A running consolidation is paused. A failed one raises in `idle`.

        Raises
        ------
        InputError
            When the message is empty, or no text, or another session has changed the store.
        """
        if not isinstance(text, str):
            raise InputError(
                f"send() was given a {type(text).__name__}; expected what the user says, as text. Turns that were "
                "answered elsewhere are added with note()."
            )
        if not text.strip():
            raise InputError("send() was given an empty message.")
        with self._exclusive():  # raise before the answer is written: it could not be saved
            pass
        self.pause()
        if self._job is not None and self._job.succeeded():
            self.settle()
        asked: Message = {"role": "user", "content": text, "date": today()}
        answer = self._answer([*self.messages[self._conversation :], asked], generate_kwargs)
        self._add(asked, {**asked, "role": "assistant", "content": answer})
        return answer

    def note(self, *said: Message) -> None:
        """Add turns that were answered elsewhere. They become memory like those of `send`.

        Messages of the user and the assistant are kept, with the day of their "date" or "timestamp", or today's.
        System prompts, tool calls and tool results are not.

        Raises
        ------
        InputError
            For anything that is not a message, or when another session has changed the store.
        """
        self._add(*with_days(said))

    def new_conversation(self) -> None:
        """Begin anew: earlier turns leave the prompt. They wait to become memory, and are known in words until then."""
        self._begins_anew = True
        self._drop_cache()

    @property
    def _conversation(self) -> int:
        """The place of the message that the conversation begins with."""
        begins = [place for place, message in enumerate(self.messages) if "conversation" in message]
        return len(self.messages) if self._begins_anew else max(begins, default=0)

    def answer(self, messages: Sequence[Message], *, instead_of: Sequence[Message] = (), **generate_kwargs: Any) -> str:
        """Answer one of several conversations of the user. Nothing of it is kept unless `note` adds it.

        Parameters
        ----------
        messages : the conversation, without a system prompt. It ends with the question.
        instead_of : messages that wait to become memory, and that question and answer are to replace. The prompt tells
            nothing of them.

        Raises
        ------
        InputError
            When another session has changed the store.
        """
        with self._exclusive():  # raise before the answer is written: it could not be saved
            pass
        self.pause()
        return self._answer(list(messages), generate_kwargs, instead_of)

    def _answer(
        self, messages: list[Message], generate_kwargs: dict[str, Any], instead_of: Sequence[Message] = ()
    ) -> str:
        prompt = [*([{"role": "system", "content": self.system}] if self.system else []), *without_days(messages)]
        prompt = self.with_notes(prompt, without=instead_of)
        memory = self.memory  # read after the words that wait to become part of it
        ids = prompt_ids(self.tokenizer, prompt, split_special_tokens=self.split_special_tokens)
        cached, cache = len(self._cached_ids), self._cache
        if cache is None or cached >= len(ids) or ids[:cached] != self._cached_ids:
            cache = self.model.new_cache()
        self._drop_cache()  # if the answer is interrupted, it is unknown what the cache has read
        given = torch.tensor([ids], device=self.model.device)
        written = self.model.generate(
            **{
                "max_new_tokens": 256,
                **generate_kwargs,
                "return_dict_in_generate": False,
                "input_ids": given,
                "attention_mask": torch.ones_like(given),
                "past_key_values": cache,
                "memories": [memory],
            }
        )[0].tolist()
        # With beams, it is unknown which row is the answer. With another memory, the cache would be another.
        if cache.rows == 1 and self.memory is memory:
            self._cache, self._cached_ids = cache, written[:-1]  # the last token was written but not read yet
        return str(self.tokenizer.decode(written[len(ids) :], skip_special_tokens=True)).strip()

    # ------------------------------------------------------------------ idle time

    def idle(self, seconds: float = 30.0) -> Report | None:
        """Read new turns for facts, then consolidate older ones, for about `seconds`. The next call continues the work.

        Returns
        -------
        The report if a consolidation ended, accepted or not. None if there was nothing to do or it is not finished.
        """
        deadline = time.monotonic() + seconds
        report = None
        try:
            while report is None and self.begin():
                work = self._reading or self._job
                assert work is not None
                while not work.done() and time.monotonic() < deadline:
                    time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
                if not work.done():
                    break
                report = self.settle()
        finally:  # an interrupt ends the idle time, too
            self.pause()
        return report

    def begin(self) -> bool:
        """Start or continue in the background: new turns are read for facts, then older ones are consolidated. `settle`
        takes over the result, and the next call begins what comes next.

        Returns
        -------
        Whether there is anything to do.
        """
        if self.read_facts():
            return True
        if self._job is None and not self._start():
            return False
        assert self._job is not None
        self._job.resume()
        return True

    def pause(self) -> None:
        """Let what `begin` started wait until the next `begin`."""
        self.pause_reading()
        job = self._job  # another thread may take over its result meanwhile
        if job is not None:
            job.pause()

    def _start(self) -> bool:
        """Begin to consolidate the turns before the last `keep_turns`, unless they were rejected already."""
        older = max(len(self.messages) - 2 * self.keep_turns, self._conversation)
        if older <= self._rejected or older <= 0:
            return False
        with self._exclusive():  # raise before the minutes of work: the result could not be saved
            pass
        self._in_job = older
        try:
            self._job = self.model.consolidate(
                self.messages[:older],
                tokenizer=self.tokenizer,
                config=self.config,
                questions=self.questions,
                writer=self.writer,
                review=self.review.reviewer,
                policy=self.review.policy,
                earlier=self.memory,
                load=False,
                background=True,
                work_dir=self.directory / WORK,
            )
        except Exception:
            self._rejected = older
            raise
        return True

    def settle(self) -> Report | None:
        """Take over the facts that were read, and the result of a consolidation that has ended. If it was accepted, the
        turns it learned are dropped.

        Returns
        -------
        The report, accepted or not. None while it works, and when nothing was begun.

        Raises
        ------
        Exception
            The error of a failed consolidation; it is not tried again until there are new messages. Or the error of
            writing the memory; the memory is kept, and the next call writes it.
        """
        self._settle_facts()
        job = self._job
        if job is None or not job.done():
            return None
        try:
            memory = job.result(0)
        except Cancelled:
            self._job = None
            return None
        except Exception:
            self._job, self._rejected = None, self._in_job
            raise
        report = memory.report
        assert report is not None
        if report.accepted:
            self._commit(memory)
            self._drop_cache()
        else:
            self._rejected = self._in_job
        self._job, self.last_report = None, report
        # The work of earlier jobs belongs to a shorter conversation.
        shutil.rmtree(self.directory / WORK, ignore_errors=True)
        return report

    def close(self) -> None:
        """Stop a running consolidation, and the writer where it reads. Finished work is kept for the next time."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading.wait()
        self._settle_facts()
        if self._job is not None:
            self._job.cancel()
            self._job.wait()
            self.settle()

    @property
    def progress(self) -> Progress | None:
        """How far the consolidation that has begun is; None when there is none."""
        return None if self._job is None else self._job.progress

    # ------------------------------------------------------------------ disk

    def _add(self, *new: Message) -> None:
        """Append messages, on disk first."""
        with self._exclusive():
            added = list(new)
            if added and self._begins_anew:
                added[0] = {**added[0], "conversation": "new"}
            messages = [*self.messages, *added]
            write_list(self.directory / TURNS, "messages", messages)
            self.messages, self._disk_state = messages, self._read_disk_state()
            self._begins_anew = self._begins_anew and not added

    def _commit(self, memory: Memory) -> None:
        """Save a memory and drop the messages that it was made from: both, or none."""
        left = self.messages[self._in_job :]
        with self._exclusive():
            self._keep_facts_of(left)
            with staged(self.directory / TURNS, [list_bytes("messages", left)]):
                self.store.save(memory)  # before the messages are dropped
            self.memory, self.messages, self._rejected = memory, left, 0
            self._disk_state = self._read_disk_state()
