"""`Users`: all users of a server, in one directory. Those without a request are on disk, except for the latest few."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from weakref import WeakValueDictionary

from ..chat.directory import TURNS
from ..chat.session import ChatSession
from ..util.files import private_directory
from ..util.messages import Message
from .directories import (
    delete,
    delete_leftovers,
    directory_name,
    lock_store,
    read_identity,
    user_directories,
)
from .user import KEEP_VERSIONS, MemoryChanged, User

MAX_LOADED = 64  # users that stay loaded between requests
MAX_LOADED_BYTES = 1 << 30  # of their memories; one user stays loaded whatever its size


class Users:
    """All users of a server.

    Parameters
    ----------
    directory : the store, for one server at a time. What killed processes left half written in it is deleted.
    open_session : opens the session in a user's directory.
    keep_versions : versions of each user's memory that stay on disk.
    changed : is told when a user's memory is another one, or was erased (None).

    Raises
    ------
    InputError
        When another server uses the directory.
    """

    def __init__(
        self,
        directory: Path,
        open_session: Callable[[Path], ChatSession],
        keep_versions: int = KEEP_VERSIONS,
        changed: MemoryChanged | None = None,
    ) -> None:
        self.directory, self.keep_versions = private_directory(directory), keep_versions
        self._open_session, self._changed = open_session, changed
        self._lock = threading.RLock()
        # Simultaneous requests of one user share one object.
        self._loaded: WeakValueDictionary[str, User] = WeakValueDictionary()
        self._recent: dict[str, User] = {}
        # When the users with waiting messages were last active, by directory name. They need not be loaded.
        self._unlearned: dict[str, float] = {}
        self._unread: dict[str, None] = {}  # those with turns that the writer may have to read, as a set in order
        self._claim()

    def _claim(self) -> None:
        """Hold the store, and find the users with turns from before the server was started."""
        self._store_lock = lock_store(self.directory)
        delete_leftovers(self.directory)
        for path in user_directories(self.directory):
            if (path / TURNS).exists():
                self._unlearned[path.name], self._unread[path.name] = -inf, None

    def close(self) -> None:
        self._store_lock.release()

    def name_of(self, identity: str) -> str:
        """The name of a user's directory."""
        return directory_name(identity)

    def paths(self) -> list[Path]:
        """The directories of all users."""
        return user_directories(self.directory)

    def known(self, identity: str) -> bool:
        """Whether anything is stored of a user.

        Raises
        ------
        InputError
            See `check_identity`.
        """
        return (self.directory / directory_name(identity)).is_dir()

    def stored(self) -> list[tuple[str | None, str]]:
        """The id and the directory's name of every user. The id is None in a directory that an earlier version made,
        until its user's next request.
        """
        read = [(read_identity(path), path) for path in user_directories(self.directory)]
        found = [(identity, path.name) for identity, path in read if path.is_dir()]  # not erased meanwhile
        return sorted(found, key=lambda user: (user[0] is None, user))

    def get(self, identity: str) -> User:
        """The object of a user, loaded or made if needed.

        Raises
        ------
        InputError
            See `check_identity`.
        CheckpointError
            When the user's files are damaged, or made for another base.
        """
        with self._lock:
            user = self._user(directory_name(identity))
            user.store_identity(identity)
            return user

    def open(self, name: str) -> User | None:
        """The object of the user of a directory; None if there is no such directory."""
        with self._lock:
            return self._user(name) if (self.directory / name).is_dir() else None

    def _user(self, name: str) -> User:
        user = self._loaded.get(name)
        if user is None:
            user = self._loaded[name] = User(
                self._open_session(self.directory / name), self.keep_versions, self._changed
            )
        self._recent.pop(name, None)
        self._recent[name] = user
        while len(self._recent) > MAX_LOADED or (len(self._recent) > 1 and self._loaded_bytes() > MAX_LOADED_BYTES):
            del self._recent[next(iter(self._recent))]
        return user

    def _loaded_bytes(self) -> int:
        """Bytes of the memories of the users who stay loaded."""
        memories = (user.memory for user in self._recent.values())
        return sum(memory.nbytes for memory in memories if memory is not None)

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Record the new turns of a conversation. They are consolidated when the user is idle."""
        user.record(conversation, answer)
        with self._lock:
            if user.waiting and not user.erased:
                self._unlearned[directory_name(identity)] = time.monotonic()
                self._unread[directory_name(identity)] = None

    @property
    def unread(self) -> bool:
        """Whether there is a user for `next_unread`."""
        return bool(self._unread)

    def next_unread(self) -> User | None:
        """A user with turns that the writer may have to read. Returned once, until another turn is recorded."""
        with self._lock:
            for name in self._unread:
                del self._unread[name]
                return self._user(name)
        return None

    def next_idle(self, seconds: float) -> User | None:
        """A user with waiting messages who has been idle that long. Returned once, until another turn is recorded."""
        with self._lock:
            for name, last_active in self._unlearned.items():
                loaded = self._loaded.get(name)
                if (time.monotonic() - last_active if loaded is None else loaded.idle_seconds()) >= seconds:
                    del self._unlearned[name]
                    return self._user(name)
        return None

    def erase(self, identity: str) -> None:
        """Delete all that is stored of a user, damaged or not.

        Raises
        ------
        InputError
            See `check_identity`.
        """
        name = directory_name(identity)
        loaded = self._loaded.get(name)
        if loaded is not None:
            loaded.erase()  # outside of the lock: it may wait for a step of training
        with self._lock:
            self._recent.pop(name, None)
            self._unlearned.pop(name, None)
            self._unread.pop(name, None)
            user = self._loaded.pop(name, None)
            if user is not None:
                user.erase()
            else:
                delete(self.directory / name)
        if self._changed is not None:
            self._changed(name, None)
