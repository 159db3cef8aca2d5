"""What a session remembers, in the hands of its user: versions, entries, and facts one by one."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from typing import Any

from ..consolidation.config import ConsolidationConfig
from ..consolidation.control import Progress
from ..consolidation.facts.turns import day_of
from ..consolidation.job import ConsolidationJob
from ..consolidation.study.pieces import added_fact
from ..consolidation.verify.traces import Traces
from ..errors import InputError
from ..memory.memory import Memory
from ..memory.report import Report
from ..streaming.cache import TTTCache
from ..util.files import list_bytes, remove, remove_unfinished, staged, write_list
from ..util.messages import Message
from .days import exchanges, with_days
from .directory import CHANGES, FACTS, TURNS, WORK
from .fact_change import FactChange
from .known import FactsInWords
from .rewording import Rewording


class OwnedMemory(FactsInWords):
    """The memory of a session, and how it is changed by hand."""

    config: ConsolidationConfig
    last_report: Report | None
    _job: ConsolidationJob | None
    _rejected: int
    _in_job: int
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
        with self.locked():
            self.store.erase()
            for name in (FACTS, TURNS, CHANGES):
                (self.directory / name).unlink(missing_ok=True)  # needs no space: works on a full disk, too
            remove_unfinished(self.directory)
            self.memory, self.messages, self._rejected, self.last_report = None, [], 0, None
            self._read, self._unreadable = [], 0
            self._disk_state = self._read_disk_state()
        self._drop_cache()

    def withdraw(self, said: Sequence[Message], instead: Sequence[Message] = ()) -> None:
        """Take back messages that wait to become memory, and add others. A consolidation that reads one is abandoned.

        Parameters
        ----------
        said : exchanges, each from a message of the user to the next. Of equal ones the last goes; memory stays.
        instead : as `note` takes them.

        Raises
        ------
        InputError
            As `note`.
        """
        with self._exclusive():
            left = list(self.messages)
            gone: list[int] = []
            for exchange in reversed(exchanges(said)):
                size = len(exchange)
                starts = (n for n in reversed(range(len(left))) if left[n : n + size] == exchange)
                if (start := next(starts, None)) is not None:
                    del left[start : start + size]
                    gone += range(start, start + size)
            left += with_days(instead)
            if left == self.messages:
                return
            self._keep_facts_of(left)
            write_list(self.directory / TURNS, "messages", left)
            self.messages, self._disk_state = left, self._read_disk_state()
            self._rejected -= sum(place < self._rejected for place in gone)
        if gone and min(gone) < self._in_job:
            self.abandon()

    # ------------------------------------------------------------------ facts

    def forget_fact(self, fact: str, *others: str, purge: bool = False) -> Report:
        """Delete facts, see `model.forget_fact`. If that is accepted, it is a new version of the store.

        The turns that are still words lose the exchanges in which the user tells one of the facts, and sentences of
        answers that do: they would become memory again. Of facts that wait to become memory only the sentences go, at
        once.

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
        return self.change(FactChange((fact, *others), purge=purge))

    def correct_fact(
        self, fact: str, text: str, *, date: datetime.date | str | None = None, purge: bool = False
    ) -> Report:
        """Put a fact in the place of another one, see `model.correct_fact`; `purge` as of `forget_fact`. In the place
        of one that waits to become memory it is said in its turn, at once.
        """
        return self.change(FactChange((fact,), text, _iso(date), purge))

    def add_fact(self, text: str, date: datetime.date | str | None = None) -> Report:
        """Add a fact that was said in no conversation, see `model.add_fact`."""
        return self.change(FactChange((), text, _iso(date)))

    def change(self, change: FactChange) -> Report:
        """Change facts, as `forget_fact`, `correct_fact` and `add_fact` do."""
        return self.take(change, self.changing(change)())

    def changing(
        self, change: FactChange, progress: Callable[[Progress], None] | None = None
    ) -> Callable[[], Memory | None]:
        """What makes the changed memory, in seconds to minutes. It changes nothing of the session; `take` does.

        Of facts that all wait to become memory it makes None, at once: `take` changes the words that tell them.

        Parameters
        ----------
        progress : called at every step. What it raises ends the work.

        Raises
        ------
        InputError
            As `forget_fact`.
        """
        memory, waiting = self.memory, self._waiting_among(change.ids)
        ids = [name for name in change.ids if name not in waiting]
        if self.at_once(change):
            return lambda: None
        if ids and memory is None:
            raise InputError("There is no fact to change: nothing is remembered yet.")
        settings = {"progress": progress or False, **self._settings(memory)}
        if change.text is None:
            return lambda: self.model.forget_fact(*ids, **settings)
        text, date, settings["writer"] = change.text, change.date, self.writer
        if ids:
            (fact,) = ids
            return lambda: self.model.correct_fact(fact, text, date=date, **settings)
        return lambda: self.model.add_fact(text, date, work_dir=self.directory / WORK, **settings)

    def at_once(self, change: FactChange) -> bool:
        """Whether a change is one of words alone: all its facts wait to become memory."""
        return bool(change.ids) and self._waiting_among(change.ids) == set(change.ids)

    def rewording(self, change: FactChange) -> Rewording:
        """What a change does to turns that tell waiting facts, and to copies of them."""
        day = None if change.date is None else day_of(change.date, "date").isoformat()
        waiting = self._waiting_among(change.ids)
        if change.text is None or not waiting:
            return self._rewording(waiting)
        return self._rewording(waiting, added_fact(change.text, datetime.date.today()).text, day)

    def _waiting_among(self, ids: Sequence[str]) -> set[str]:
        return {fact.id for fact in self.waiting_facts(None)}.intersection(ids)

    def _settings(self, memory: Memory | None) -> dict[str, Any]:
        with self._exclusive():  # raise before the work: its result could not be saved
            pass
        self.pause_reading()
        if self._job is not None:
            self._job.pause()
        config = self.config if memory is None else dataclasses.replace(self.config, memory=memory.config)
        return {"tokenizer": self.tokenizer, "config": config, "earlier": memory, "load": False}

    def take(self, change: FactChange, made: Memory | None) -> Report:
        """Save what was made of the memory, if it was accepted, and drop the messages and sentences that tell what is
        gone: both, or none. Where none was made, sentences alone.
        """
        waiting = self._waiting_among(change.ids)
        if made is None:
            return self._reword(change)
        report = made.report
        assert report is not None
        if report.accepted:
            left, read = self._reworded(self._rewording(waiting))
            left = _without(left, change, self.memory, made)
            with self._exclusive():
                self._keep_facts_of(left, read)
                with staged(self.directory / TURNS, [list_bytes("messages", left)]):
                    self.store.save(made)  # before the messages are dropped
                self.memory, self.messages, self._rejected = made, left, 0
                self._disk_state = self._read_disk_state()
            self.abandon()  # what builds on the memory before
            self._drop_cache()
            self._purge(change)
        self.last_report = report
        return report

    def finish(self, change: FactChange) -> None:
        """Do what a kill may have left undone of a change that the memory holds already: messages that tell the facts,
        and the earlier versions.
        """
        history = self.store.history()
        earlier = self.store.load(history[-2]) if len(history) > 1 else None
        left = _without(self.messages, change, earlier, self.memory)
        if left != self.messages:
            with self._exclusive():
                self._keep_facts_of(left)
                write_list(self.directory / TURNS, "messages", left)
                self.messages, self._rejected = left, 0
                self._disk_state = self._read_disk_state()
        self._purge(change)

    def _purge(self, change: FactChange) -> None:
        if change.purge:
            with self._exclusive():
                self.store.prune(keep=1)
                self._disk_state = self._read_disk_state()

    def _reword(self, change: FactChange) -> Report:
        """Delete waiting facts from the turns, or put a text in the place of one."""
        rewording = self.rewording(change)
        gone = rewording.traces.gone
        if not gone:
            raise InputError(
                "The fact that was to be changed is not known in these words any more. List the facts again."
            )
        left, read = self._reworded(rewording)
        self.abandon()  # what reads those turns
        with self._exclusive():
            self._keep_facts_of(left, read)
            write_list(self.directory / TURNS, "messages", left)
            self.messages, self._rejected = left, 0
            self._disk_state = self._read_disk_state()
        self._drop_cache()
        reason = "it was not memory yet, and its sentences left the turns."
        return Report(True, reason, None, None, 0, None, None, 0.0, 0.0, forgotten=len(gone))

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


def _without(messages: list[Message], change: FactChange, before: Memory | None, after: Memory | None) -> list[Message]:
    """The messages without what tells the facts that a change deletes from a memory, see `Traces.exchanges`."""
    gone = [] if before is None else [fact for fact in before.facts(None) if fact.id in change.ids]
    left = [] if after is None else [fact for fact in after.facts(None) if fact.text]
    return Traces(gone, left).exchanges(messages) if gone else messages


def _iso(date: datetime.date | str | None) -> str | None:
    return date.isoformat() if isinstance(date, datetime.date) else date
