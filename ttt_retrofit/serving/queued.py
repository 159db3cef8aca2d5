"""Work for the users of a shared store: a process that answers puts it into the store, and another one does it.

`work_for` is that work for one user: changes of facts, then a consolidation of what was said. A lock in the user's
directory keeps it to one process at a time, and the operating system releases it when that process is killed. What is
half done goes on where it was, or is done again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.utils import logging

from ..chat.directory import TURNS
from ..chat.fact_change import FactChange
from .changes import FactChanges, Requested, TooManyChanges, stored_changes
from .shared_users import SharedUsers
from .user import User

logger = logging.get_logger(__name__)

WORKING = "working.lock"  # in a user's directory
POLL = 0.2  # seconds


# ---------------------------------------------------------------------- who answers


class QueuedChanges(FactChanges):
    """Changes of facts that another process does.

    Parameters
    ----------
    ended : gives the changes of a user, by the name of the directory, that have ended.
    """

    def __init__(self, users: SharedUsers, ended: Callable[[str], list[Requested]]) -> None:
        self.shared, self._ended_of = users, ended

    def request(self, identity: str, user: User, change: FactChange, most: int) -> Requested:
        """As `FactChanges.request`."""
        requested = Requested(self.shared.name_of(identity), change)
        with user.held():
            before = stored_changes(user.session.directory)
            if len(before) >= most:
                raise TooManyChanges
            self.shared.pending.add(requested.user, 0.0)
            user.write_changes([one.stored() for one in [*before, requested]])
        return requested

    def of(self, identity: str) -> list[Requested]:
        """As `FactChanges.of`."""
        name = self.shared.name_of(identity)
        return [*self._ended_of(name), *stored_changes(self.shared.directory / name)]

    def drop(self, identity: str) -> None:
        """What waits is in the directory that is erased."""


class QueuedConsolidator:
    """In the place of `IdleConsolidator`: turns and changes wait in the store for another process."""

    def __init__(self, users: SharedUsers, ended: Callable[[str], list[Requested]]) -> None:
        self.changes: FactChanges = QueuedChanges(users, ended)

    def start(self) -> None:
        """Nothing runs here."""

    def stop(self) -> None:
        """Nothing runs here."""

    def interrupt(self) -> None:
        """Nothing runs here."""


# ---------------------------------------------------------------------- who works


class ChangesOf(FactChanges):
    """The changes of one user that wait in the store, done by who holds `WORKING`."""

    def __init__(self, users: SharedUsers, name: str) -> None:
        self.users, self._lock = users, threading.RLock()
        self._queue = stored_changes(users.directory / name)
        self._ended = {}

    @property
    def ended(self) -> list[Requested]:
        return list(self._ended.values())

    def _end(self, requested: Requested, user: User | None) -> None:
        self._queue.remove(requested)
        self._ended[requested.id] = requested
        if user is not None:
            with user.held():  # others may have come since
                waiting = stored_changes(user.session.directory)
                user.write_changes([one.stored() for one in waiting if one.id != requested.id])


def work_for(users: SharedUsers, name: str) -> list[Requested]:
    """Do what waits for the user of a directory. Nothing, where another process is at it.

    Returns
    -------
    The changes of facts that have ended.

    Raises
    ------
    Exception
        The error of a failed consolidation. It is not tried again until more is said.
    """
    stamp, path = users.pending.stamp(name), users.directory / name
    if not path.is_dir():  # erased
        users.pending.done(name, stamp)
        return []
    working = FileLock(path / WORKING, mode=0o600)
    try:
        working.acquire(timeout=0)
    except Timeout:
        return []
    try:
        changes = ChangesOf(users, name)
        changes.work(lambda: False)
        while not _consolidated(users, name, stamp):
            pass
        return changes.ended
    except Exception:
        users.pending.done(name, stamp)
        if path.is_dir():
            raise
        return []  # the user was erased meanwhile
    finally:
        working.release()


def _consolidated(users: SharedUsers, name: str, stamp: int | None) -> bool:
    """Consolidate what a user has said. False where something else has changed the memory: begin again."""
    user = users.open(name)
    if user is None:
        users.pending.done(name, stamp)
        return True
    left = users.idle - _silent(user.session.directory / TURNS)
    if left > 0:  # they are talking; a change of facts was what was due
        users.pending.done(name, stamp, left)
        return True
    ended = False
    try:
        while True:
            with user.held():
                if not user.session.take_over():
                    return False
                report = user.settle()
                ended = report is not None or not user.begin()
                if ended:
                    user.close()
                    users.pending.done(name, stamp)
                    break
            time.sleep(POLL)
        if report is not None:
            logger.info("%s: %s", name, report)
        return True
    finally:
        if not ended:
            user.session.abandon()


def _silent(turns: Path) -> float:
    """Seconds since the last turn; without end where none waits."""
    return time.time() - turns.stat().st_mtime if turns.exists() else float("inf")
