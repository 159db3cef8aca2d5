"""What a session remembers, in the hands of its user: versions, entries, and facts one by one."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..consolidation.config import ConsolidationConfig
from ..consolidation.control import Progress
from ..consolidation.job import ConsolidationJob
from ..consolidation.traces import Traces
from ..errors import InputError
from ..memory.memory import Memory
from ..memory.report import Report
from ..streaming.cache import TTTCache
from ..util.files import list_bytes, remove, remove_unfinished, staged
from ..util.messages import Message
from .directory import CHANGES, TURNS, WORK
from .disk import SessionFiles
from .fact_change import FactChange


class OwnedMemory(SessionFiles):
    """The memory of a session, and how it is changed by hand."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    config: ConsolidationConfig
    writer: Any
    memory: Memory | None
    messages: list[Message]
    last_report: Report | None
    _job: ConsolidationJob | None
    _rejected: int
    _cache: TTTCache | None
    _cached_ids: list[int]

    def rollback(self) -> None:
        """Return to the memory before the last consolidation. A running one builds on it, and is abandoned."""
        with self._exclusive():
            self.memory = self.store.rollback()
            self._disk_state = self._read_disk_state()
        self.abandon()
        self._drop_cache()

    def forget(self, name: str, *others: str) -> None:
        """Drop entries of the memory, see `memory.names()`. A consolidation that builds on one is abandoned."""
        if self.memory is None:
            raise InputError(f"forget({name!r}): nothing is remembered yet.")
        left = self.memory.forget(name, *others)
        with self._exclusive():
            self.store.save(left)
            self.memory, self._disk_state = left, self._read_disk_state()
        self.abandon()
        self._drop_cache()

    def erase(self) -> None:
        """Delete all messages and memories, here and in the store, including what another session wrote there."""
        self.abandon()
        with self._locked():
            self.store.erase()
            for name in (TURNS, CHANGES):
                (self.directory / name).unlink(missing_ok=True)  # needs no space: works on a full disk, too
            remove_unfinished(self.directory)
            self.memory, self.messages, self._rejected, self.last_report = None, [], 0, None
            self._disk_state = self._read_disk_state()
        self._drop_cache()

    # ------------------------------------------------------------------ facts

    def forget_fact(self, fact: str, *others: str, purge: bool = False) -> Report:
        """Delete facts, see `model.forget_fact`. If that is accepted, it is a new version of the store.

        The turns that are still words lose the exchanges that tell one of the facts: they would become memory again.

        Parameters
        ----------
        fact, others : ids, as in `memory.facts(None)`.
        purge : delete the earlier versions, too, which still hold them. There is no way back then.

        Raises
        ------
        InputError
            When nothing is remembered yet, or another session has changed the store.
        ConfigError
            As `model.forget_fact`.
        """
        return self.change(FactChange((fact, *others), purge=purge))

    def correct_fact(
        self, fact: str, text: str, *, date: datetime.date | str | None = None, purge: bool = False
    ) -> Report:
        """Put a fact in the place of another one, see `model.correct_fact`; `purge` as of `forget_fact`."""
        return self.change(FactChange((fact,), text, _iso(date), purge))

    def add_fact(self, text: str, date: datetime.date | str | None = None) -> Report:
        """Add a fact that was said in no conversation, see `model.add_fact`."""
        return self.change(FactChange((), text, _iso(date)))

    def change(self, change: FactChange) -> Report:
        """Change facts, as `forget_fact`, `correct_fact` and `add_fact` do."""
        return self.take(change, self.changing(change)())

    def changing(self, change: FactChange, progress: Callable[[Progress], None] | None = None) -> Callable[[], Memory]:
        """What makes the changed memory, in seconds to minutes. It changes nothing of the session; `take` does.

        Parameters
        ----------
        progress : called at every step. What it raises ends the work.

        Raises
        ------
        InputError
            As `forget_fact`.
        """
        memory = self.memory
        if change.ids and memory is None:
            raise InputError("There is no fact to change: nothing is remembered yet.")
        settings = {"progress": progress or False, **self._settings(memory)}
        if change.text is None:
            return lambda: self.model.forget_fact(*change.ids, **settings)
        text, date, settings["writer"] = change.text, change.date, self.writer
        if change.ids:
            (fact,) = change.ids
            return lambda: self.model.correct_fact(fact, text, date=date, **settings)
        return lambda: self.model.add_fact(text, date, work_dir=self.directory / WORK, **settings)

    def _settings(self, memory: Memory | None) -> dict[str, Any]:
        with self._exclusive():  # raise before the work: its result could not be saved
            pass
        if self._job is not None:
            self._job.pause()
        config = self.config if memory is None else dataclasses.replace(self.config, memory=memory.config)
        return {"tokenizer": self.tokenizer, "config": config, "earlier": memory, "load": False}

    def take(self, change: FactChange, made: Memory) -> Report:
        """Save what was made of the memory, if it was accepted, and drop the messages that tell what is gone: both, or
        none.
        """
        report = made.report
        assert report is not None
        gone = [fact for fact in self.memory.facts(None) if fact.id in change.ids] if self.memory is not None else []
        if report.accepted:
            traces = Traces(gone, [fact for fact in made.facts(None) if fact.text])
            left = traces.exchanges(self.messages) if gone else self.messages
            with self._exclusive():
                with staged(self.directory / TURNS, [list_bytes("messages", left)]):
                    self.store.save(made)  # before the messages are dropped
                self.memory, self.messages, self._rejected = made, left, 0
                self._disk_state = self._read_disk_state()
            self.abandon()  # what builds on the memory before
            self._drop_cache()
            if change.purge:
                with self._exclusive():
                    self.store.prune(keep=1)
                    self._disk_state = self._read_disk_state()
        self.last_report = report
        return report

    # ------------------------------------------------------------------ what builds on it

    def abandon(self) -> None:
        """Stop a running consolidation and delete its work, finished or not."""
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            job.wait()
        remove(self.directory / WORK)

    def _drop_cache(self) -> None:
        """Drop the KV cache. The next answer reads its prompt again."""
        self._cache, self._cached_ids = None, []


def _iso(date: datetime.date | str | None) -> str | None:
    return date.isoformat() if isinstance(date, datetime.date) else date
