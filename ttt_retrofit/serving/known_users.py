"""`KnownUsers`: what the routes below /v1/memories and the queue of changes ask of a directory of users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..util.messages import Message
from .user import User


class KnownUsers(Protocol):
    """All users of a server, or the one of a page."""

    def name_of(self, identity: str) -> str:
        """The name of a user's directory."""

    def paths(self) -> list[Path]:
        """The directories of all users."""

    def known(self, identity: str) -> bool:
        """Whether anything is stored of a user."""

    def stored(self) -> list[tuple[str | None, str]]:
        """The id and the directory's name of every user."""

    def get(self, identity: str) -> User:
        """The object of a user, loaded or made if needed."""

    def open(self, name: str) -> User | None:
        """The object of the user of a directory; None if there is no such directory."""

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Record the new turns of a conversation."""

    def erase(self, identity: str) -> None:
        """Delete all that is stored of a user."""
