"""`SharedUsers`: users of a store that several processes serve, each of which reads what another has written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from ..chat.directory import LOCK
from ..chat.disk import LOCK_TIMEOUT
from ..chat.session import ChatSession
from ..util.messages import Message
from .directories import delete, directory_name
from .pending import PendingUsers
from .user import KEEP_VERSIONS, User
from .users import Users


class SharedUsers(Users):
    """As `Users`. Which process a request reaches makes no difference; one that has the user loaded is faster.

    Parameters
    ----------
    idle : seconds without a new turn after which a user's messages are to be consolidated.
    """

    def __init__(
        self,
        directory: Path,
        open_session: Callable[[Path], ChatSession],
        keep_versions: int = KEEP_VERSIONS,
        idle: float = 60.0,
    ) -> None:
        super().__init__(directory, open_session, keep_versions)
        self.idle, self.pending = idle, PendingUsers(self.directory)

    def _claim(self) -> None:
        """Nothing is held: whoever distributes the work holds the store for all."""

    def close(self) -> None:
        """Nothing is held."""

    def _user(self, name: str) -> User:
        loaded = self._loaded.get(name)
        if loaded is not None and loaded.session.changed():
            del self._loaded[name]
            self._recent.pop(name, None)
        return super()._user(name)

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Record the new turns of a conversation, whoever else has recorded some since the request came."""
        name = directory_name(identity)
        while (self.directory / name).is_dir():  # else the user was erased since then
            current = self.get(identity)
            with current.held():
                if not current.session.changed():
                    self.pending.add(name, self.idle)
                    current.record(conversation, answer)
                    return

    def erase(self, identity: str) -> None:
        """As `Users.erase`. Who works for the user in another process stops within a step."""
        name = directory_name(identity)
        path = self.directory / name
        with self._lock:
            self._recent.pop(name, None)
            loaded = self._loaded.pop(name, None)
        if path.is_dir():
            with FileLock(path / LOCK, mode=0o600, timeout=LOCK_TIMEOUT):
                delete(path)
        if loaded is not None:
            loaded.erase()
