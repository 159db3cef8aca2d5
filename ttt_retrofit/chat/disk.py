"""A session's files under its lock: one session at a time may change them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..memory.store import MemoryStore
from ..util.display import Displayed
from ..util.files import read_regular
from ..util.messages import Message
from .directory import TURNS, stored_messages

LOCK_TIMEOUT = 30.0  # seconds to wait for another session's write


class SessionFiles(Displayed):
    """The directory of a user, and whether another session has changed it."""

    directory: Path
    store: MemoryStore
    messages: list[Message]
    _lock: FileLock
    _disk_state: tuple[bytes, bytes]

    def changed(self) -> bool:
        """Whether another session has changed the store, or deleted it."""
        return not self.directory.is_dir() or self._read_disk_state() != self._disk_state

    def take_over(self) -> bool:
        """Take over messages that another session has added. Call it under the lock.

        Returns
        -------
        Whether nothing else has changed. Otherwise nothing is taken over: open a new session.
        """
        state = self._read_disk_state()
        if state != self._disk_state:
            messages = stored_messages(self.directory)
            if state[1] != self._disk_state[1] or messages[: len(self.messages)] != self.messages:
                return False
            self.messages, self._disk_state = messages, state
        return True

    def _read_disk_state(self) -> tuple[bytes, bytes]:
        """What another session would have changed: the file of messages, and the store's state."""
        turns = self.directory / TURNS
        return read_regular(turns) if turns.exists() else b"", self.store.state()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the store's lock, a second time where this thread has it.

        Raises
        ------
        InputError
            When another session has it for half a minute, or the directory was deleted.
        """
        if not self.directory.is_dir():  # the lock would make it again
            raise InputError(f"{self.directory} was deleted since this session read it. Open a new one.")
        try:
            self._lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout as error:
            raise InputError(
                f"Another session has been writing to {self.directory} for {LOCK_TIMEOUT:.0f} seconds. Close it first."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the store's lock, and check that the store has not changed.

        Raises
        ------
        InputError
            When another session has changed it.
        """
        with self.locked():
            if self._read_disk_state() != self._disk_state:
                raise InputError(
                    f"{self.directory} was changed by another session since this one read it, and of what both say "
                    "only one would be kept. Open a new ChatSession on it, and one at a time."
                )
            yield
