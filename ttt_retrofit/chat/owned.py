"""What a session remembers, in the hands of its user: versions, entries, and facts one by one."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from ..consolidation.config import ConsolidationConfig
from ..consolidation.facts.turns import day_of
from ..consolidation.job import ConsolidationJob
from ..consolidation.pieces import added_fact
from ..consolidation.traces import Traces
from ..errors import InputError
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.report import Report
from ..streaming.cache import TTTCache
from ..util.files import list_bytes, remove, remove_unfinished, staged, write_list
from .directory import FACTS, TURNS, WORK
from .known import FactsInWords


class OwnedMemory(FactsInWords):
    """The memory of a session, and how it is changed by hand."""

    config: ConsolidationConfig
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
            for name in (FACTS, TURNS):  # needs no space: works on a full disk, too
                (self.directory / name).unlink(missing_ok=True)
            remove_unfinished(self.directory)
            self.memory, self.messages, self._rejected, self.last_report = None, [], 0, None
            self._read, self._unreadable = [], 0
            self._disk_state = self._read_disk_state()
        self._drop_cache()

    # ------------------------------------------------------------------ facts

    def forget_fact(self, fact: str, *others: str, purge: bool = False) -> Report:
        """Delete facts, see `model.forget_fact`. If that is accepted, it is a new version of the store.

        The turns that are still words lose the exchanges that tell one of the facts: they would become memory again. Of
        facts that wait to become memory only the sentences go, at once.

        Parameters
        ----------
        fact, others : ids, as in `memory.facts(None)` and in `waiting_facts(None)`.
        purge : delete the earlier versions, too, which still hold them. There is no way back then.

        Raises
        ------
        InputError
            When nothing is remembered yet, or another session has changed the store.
        ConfigError
            As `model.forget_fact`.
        """
        ids = (fact, *others)
        waiting = self._waiting_among(ids)
        if waiting:
            report = self._reword(waiting)
            ids = tuple(name for name in ids if name not in waiting)
            if not ids:
                return report
        memory = self._known("forget_fact")
        gone = [one for one in memory.facts(None) if one.id in ids]
        made = self.model.forget_fact(*ids, **self._settings(memory))
        return self._take(made, gone, purge)

    def correct_fact(
        self, fact: str, text: str, *, date: datetime.date | str | None = None, purge: bool = False
    ) -> Report:
        """Put a fact in the place of another one, see `model.correct_fact`; `purge` as of `forget_fact`. In the place
        of one that waits to become memory it is said in its turn, at once.
        """
        if self._waiting_among([fact]):
            return self._reword({fact}, text, date)
        memory = self._known("correct_fact")
        gone = [one for one in memory.facts(None) if one.id == fact]
        made = self.model.correct_fact(fact, text, date=date, writer=self.writer, **self._settings(memory))
        return self._take(made, gone, purge)

    def add_fact(self, text: str, date: datetime.date | str | None = None) -> Report:
        """Add a fact that was said in no conversation, see `model.add_fact`."""
        settings = {"writer": self.writer, "work_dir": self.directory / WORK, **self._settings(self.memory)}
        return self._take(self.model.add_fact(text, date, **settings), (), purge=False)

    def _waiting_among(self, ids: Sequence[str]) -> set[str]:
        return {fact.id for fact in self.waiting_facts(None)}.intersection(ids)

    def _reword(self, ids: set[str], text: str | None = None, date: datetime.date | str | None = None) -> Report:
        """Delete waiting facts from the turns, or put a text in the place of one."""
        day = None if date is None else day_of(date, "date").isoformat()
        said = None if text is None else added_fact(text, datetime.date.today()).text
        left = self._reworded(ids, said, day)
        self.abandon()  # what reads those turns
        with self._exclusive():
            self._keep_facts_of(left)
            write_list(self.directory / TURNS, "messages", left)
            self.messages, self._rejected = left, 0
            self._disk_state = self._read_disk_state()
        self._drop_cache()
        reason = "it was not memory yet, and its sentences left the turns."
        return Report(True, reason, None, None, 0, None, None, 0.0, 0.0, forgotten=len(ids))

    def _known(self, call: str) -> Memory:
        if self.memory is None:
            raise InputError(f"{call}(): nothing is remembered yet.")
        return self.memory

    def _settings(self, memory: Memory | None) -> dict[str, Any]:
        with self._exclusive():  # raise before the work: its result could not be saved
            pass
        self.pause_reading()
        if self._job is not None:
            self._job.pause()
        config = self.config if memory is None else dataclasses.replace(self.config, memory=memory.config)
        return {"tokenizer": self.tokenizer, "config": config, "earlier": memory, "load": False}

    def _take(self, made: Memory, gone: Sequence[Fact], purge: bool) -> Report:
        """Save what was accepted, and drop the messages that tell what is gone: both, or none."""
        report = made.report
        assert report is not None
        if report.accepted:
            traces = Traces(gone, [fact for fact in made.facts(None) if fact.text])
            left = traces.exchanges(self.messages) if gone else self.messages
            with self._exclusive():
                self._keep_facts_of(left)
                with staged(self.directory / TURNS, [list_bytes("messages", left)]):
                    self.store.save(made)  # before the messages are dropped
                self.memory, self.messages, self._rejected = made, left, 0
                self._disk_state = self._read_disk_state()
            self.abandon()  # what builds on the memory before
            self._drop_cache()
            if purge:
                with self._exclusive():
                    self.store.prune(keep=1)
                    self._disk_state = self._read_disk_state()
        self.last_report = report
        return report

    # ------------------------------------------------------------------ what builds on it

    def abandon(self) -> None:
        """Stop a running consolidation, and the writer where it reads; delete their work, finished or not."""
        self._abandon_reading()
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            job.wait()
        remove(self.directory / WORK)

    def _drop_cache(self) -> None:
        """Drop the KV cache. The next answer reads its prompt again."""
        self._cache, self._cached_ids = None, []
