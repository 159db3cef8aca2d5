"""Changes of facts that users asked for: they wait in one queue, and the thread that consolidates does them. Those of
facts that are not memory yet are done at once.

A change that waits is in its user's directory: a restart does it. How changes ended is known until the server stops.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..chat.directory import CHANGES
from ..chat.fact_change import FactChange
from ..consolidation.control import Progress
from ..errors import Cancelled, CheckpointError, ConfigError, InputError
from ..memory.report import Report
from ..util.files import read_list
from .known_users import KnownUsers
from .user import User

logger = logging.get_logger(__name__)

MAX_ENDED = 1000  # changes that are kept after their end


class TooManyChanges(Exception):
    """As many changes of one user wait as may."""


@dataclass
class Requested:
    """A change of one user's facts, and how far it is.

    Attributes
    ----------
    user : name of the user's directory.
    status : "waiting", "working", "accepted", "refused" or "failed".
    again : it was read from disk, and may have been done before the server was killed.
    progress : of the work, once it has begun.
    fact : id of the new fact, of an accepted change with a text.
    """

    user: str
    change: FactChange
    id: str = field(default_factory=lambda: f"change-{uuid.uuid4().hex}")
    status: str = "waiting"
    again: bool = False
    progress: Progress | None = None
    reason: str | None = None
    report: Report | None = None
    fact: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The state, as a JSON object."""
        return {
            "id": self.id, "object": "memory.change", "status": self.status, "reason": self.reason,
            **self.change.to_dict(), "fact": self.fact,
            "progress": None if self.progress is None else self.progress.to_dict(),
            "report": None if self.report is None else self.report.to_dict(),
        }  # fmt: skip

    def stored(self) -> dict[str, Any]:
        """What is written while it waits."""
        return {"id": self.id, **self.change.to_dict()}


def _is_stored(item: Any) -> bool:
    return isinstance(item, dict) and set(item) == {"id", "ids", "text", "date", "purge"}


def stored_changes(path: Path) -> list[Requested]:
    """The changes that wait in a user's directory. Raises `CheckpointError` where their file is damaged."""
    stored = read_list(path / CHANGES, "changes", _is_stored, "Its changes are not done.")
    return [Requested(path.name, FactChange.from_dict(one), one["id"], again=True) for one in stored]


class FactChanges:
    """The queue. Safe to use from several threads; one thread calls `work`."""

    def __init__(self, users: KnownUsers) -> None:
        self.users, self._lock = users, threading.RLock()
        self._queue: list[Requested] = []
        self._ended: dict[str, Requested] = {}
        for path in users.paths():
            try:
                self._queue += stored_changes(path)
            except CheckpointError as error:  # one user's file must not keep the server from starting
                logger.error("%s", error)

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def request(self, identity: str, user: User, change: FactChange, most: int) -> Requested:
        """Put a change into the queue, on disk first; or do it, where nothing has to be learned for it.

        Raises
        ------
        TooManyChanges
            When `most` changes of the user wait already.
        """
        requested = Requested(self.users.name_of(identity), change)
        if user.at_once(change):
            self._attempt(user, requested, lambda: False)
            with self._lock:
                self._remember(requested)
            return requested
        with self._lock:
            before = [one for one in self._queue if one.user == requested.user]
            if len(before) >= most:
                raise TooManyChanges
            user.write_changes([one.stored() for one in [*before, requested]])
            self._queue.append(requested)
        return requested

    def of(self, identity: str) -> list[Requested]:
        """The changes of a user: those that ended, then those that wait."""
        name = self.users.name_of(identity)
        with self._lock:
            return [one for one in (*self._ended.values(), *self._queue) if one.user == name]

    def drop(self, identity: str) -> None:
        """Forget the changes of a user who is erased."""
        name = self.users.name_of(identity)
        with self._lock:
            self._queue = [one for one in self._queue if one.user != name]
            self._ended = {key: one for key, one in self._ended.items() if one.user != name}

    def work(self, stopped: Callable[[], bool]) -> None:
        """Do the changes that wait, oldest first, until the server is being stopped."""
        while not stopped():
            with self._lock:
                if not self._queue:
                    return
                requested = self._queue[0]
            try:
                self._do(requested, stopped)
            except Cancelled:  # by the stop, then it waits on disk; or its user was erased
                requested.status = "waiting"
                if stopped():
                    return
                self._end(requested, None)

    def _do(self, requested: Requested, stopped: Callable[[], bool]) -> None:
        user = None
        with self._failing(requested):
            user = self.users.open(requested.user)
        if user is not None:
            self._attempt(user, requested, stopped)
        self._end(requested, user)

    def _attempt(self, user: User, requested: Requested, stopped: Callable[[], bool]) -> None:
        with self._failing(requested):
            requested.status = "working"
            self._try(user, requested, stopped)

    @contextmanager
    def _failing(self, requested: Requested) -> Iterator[None]:
        """An error is the end of one change, and of nothing else."""
        try:
            yield
        except Cancelled:
            raise
        except (ConfigError, InputError) as error:  # of the facts: it tells what to do
            requested.status, requested.reason = "failed", str(error)
        except Exception:
            logger.exception("A change of facts failed.")
            requested.status, requested.reason = "failed", "The change failed; the server's log says why."

    def _try(self, user: User, requested: Requested, stopped: Callable[[], bool]) -> None:
        def watch(progress: Progress) -> None:
            requested.progress = progress
            if stopped() or user.erased:
                raise Cancelled("The server is being stopped, or the user was erased.")

        if requested.again and requested.change.holds(user.facts("all")):
            user.finish(requested.change)
            requested.status, requested.reason = "accepted", "It was done before the server was stopped."
            return
        report = user.change(requested.change, watch)
        if report is None:
            raise Cancelled("The user was erased.")
        requested.report, requested.reason = report, report.reason
        requested.status = "accepted" if report.accepted else "refused"
        requested.fact = requested.change.made(user.facts()) if report.accepted else None

    def _end(self, requested: Requested, user: User | None) -> None:
        with self._lock:
            if requested in self._queue:  # else its user was erased
                self._queue.remove(requested)
                self._remember(requested)
                if user is not None:
                    user.write_changes([one.stored() for one in self._queue if one.user == requested.user])

    def _remember(self, requested: Requested) -> None:
        self._ended[requested.id] = requested
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
