"""What is kept of users on disk: by a server, by chats or in a memory store; of one user, or of several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..chat.all_facts import all_facts
from ..chat.directory import STORE, erase_directory, is_session_directory, open_store
from ..chat.waiting import Waiting
from ..errors import InputError
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.memory_file import HEADER
from ..memory.store import VERSIONS, MemoryStore
from .directories import (
    DIRECTORY_NAME,
    SERVING,
    directory_name,
    erase_stored,
    lock_store,
    read_identity,
    user_directories,
)


def is_of_one(directory: Path) -> bool:
    """Whether the directory holds a chat's words or memory, or is a memory store."""
    return is_session_directory(directory) or (directory / VERSIONS).is_dir()


def users_in(where: Path) -> dict[str, Path]:
    """The directories of several users by name: those of a server by their ids, those of chats by their own names."""
    if not where.is_dir() or is_of_one(where):
        return {}
    served = {read_identity(path) or path.name: path for path in user_directories(where)}
    of_chats = {path.name: path for path in where.iterdir() if path not in served.values() and is_of_one(path)}
    return dict(sorted((served | of_chats).items()))


def directory_of(where: Path, user: str | None) -> Path:
    """The directory of a user: `where` itself when none is named.

    Raises
    ------
    InputError
        When nothing is stored of that user, when none of several is named, and for a file.
    """
    if where.is_file():
        raise InputError(f"{where} is a file; expected what was given to --memory or --store, or a memory saved alone.")
    if user is None and users_in(where):
        raise InputError(
            f"{where} is a directory of several users. Name one with --user, or where you erase, as in: ttt-retrofit "
            f"memory erase {where} USER. `ttt-retrofit memory list {where}` lists them."
        )
    found = find_directory(where, user)
    if found is None:
        raise InputError(
            f"Nothing is stored of a user {user!r} in {where}. `ttt-retrofit memory list {where}` lists users."
        )
    return found


def find_directory(where: Path, user: str | None) -> Path | None:
    """As `directory_of`; None when nothing is stored of that user."""
    if user is None:
        return where
    if is_of_one(where):
        raise InputError(f"{where} is the directory of one user. Name none, as in: ttt-retrofit memory erase {where}")
    if not where.is_dir():
        raise InputError(f"There is no directory {where}. Expected what was given to --store, or what holds users.")
    served = where / directory_name(user)
    return served if served.is_dir() else users_in(where).get(user)


def erase_one(where: Path, user: str | None) -> None:
    """Delete all that a chat, a server or a memory store has of one user. Nobody may be using it.

    Raises
    ------
    InputError
        When there is nothing, or a server is using it.
    """
    directory = directory_of(where, user)
    if user is not None and directory.name == directory_name(user):
        erase_stored(where, user)
    elif is_session_directory(directory):
        with changing(directory):
            erase_directory(directory)
    elif is_of_one(directory):
        MemoryStore(directory).erase()
    elif (directory / HEADER).is_file():
        raise InputError(f"{directory} is a memory saved alone. Delete its directory.")
    else:
        raise InputError(
            f"{where} holds neither words nor memory of one user. Expected what was given to `chat --memory` or "
            "`consolidate --memory`; of a directory of several users, name the user as well: memory erase STORE USER."
        )


@contextmanager
def changing(directory: Path) -> Iterator[None]:
    """Keep a server off the directory of one of its users.

    Raises
    ------
    InputError
        When a server is using it.
    """
    if not (DIRECTORY_NAME.fullmatch(directory.name) or (directory.parent / SERVING).exists()):
        yield
        return
    lock = lock_store(directory.parent)
    try:
        yield
    finally:
        lock.release()


def remembered(directory: Path) -> Memory | None:
    """The current memory of one user's directory, None before the first."""
    kept = any((path / VERSIONS).is_dir() for path in (directory / STORE, directory))
    return open_store(directory).load() if kept else None


def facts_in(directory: Path) -> list[Fact]:
    """All facts in one user's directory. Sentences of turns that nobody has read are facts as they stand."""
    waiting = Waiting.stored(directory)  # before the memory: what became part of it meanwhile is in both
    return all_facts(remembered(directory), waiting.facts(lambda fact: True), waiting.ended())
