"""Memories on disk: one saved alone, those of a user's directory, and the users in a directory of several."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_retrofit import CheckpointError, InputError, Memory
from ttt_retrofit.chat.directory import STORE, TURNS, erase_directory, is_session_directory, open_store
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.memory.store import VERSIONS, MemoryStore
from ttt_retrofit.serving.directories import (
    SERVING,
    directory_name,
    erase_stored,
    lock_store,
    read_identity,
    user_directories,
)
from ttt_retrofit.util.files import read_list
from ttt_retrofit.util.messages import is_message


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
        When nothing is stored of that user.
    """
    if user is None:
        return where
    if is_of_one(where):
        raise InputError(f"{where} is the directory of one user. Name none, as in: ttt-retrofit memory erase {where}")
    if not where.is_dir():
        raise InputError(f"There is no directory {where}. Expected what was given to --store, or what holds users.")
    served = where / directory_name(user)
    if served.is_dir():
        return served
    found = users_in(where).get(user)
    if found is None:
        raise InputError(
            f"Nothing is stored of a user {user!r} in {where}. `ttt-retrofit memory list {where}` lists users."
        )
    return found


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
    if not (directory.parent / SERVING).exists():
        yield
        return
    lock = lock_store(directory.parent)
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Kept:
    """What is kept of one user: a memory, or none yet, and messages that are still words."""

    memory: Memory | None
    version: int | None
    waiting: int

    @classmethod
    def read(cls, where: Path, version: int | None = None) -> Kept:
        """What a directory holds: a memory saved alone, a version, or the current one.

        Raises
        ------
        InputError
            When there is nothing, or no version is current.
        """
        waiting = len(read_list(where / TURNS, "messages", is_message, "Move it away to go on without its turns."))
        if (where / HEADER).exists():
            if version is not None:
                raise InputError(f"{where} is a memory saved alone, which has no version {version}.")
            return cls(Memory.load(where), None, waiting)
        if waiting and version is None and not (where / STORE / VERSIONS).is_dir():
            return cls(None, None, waiting)
        store = open_store(where)
        number = store.current() if version is None else version
        if number is None:
            raise InputError(f"In {where} no version is current; it has {store.versions()}. Name one with --version.")
        return cls(load_version(store, number), number, waiting)

    @property
    def facts(self) -> dict[str, int]:
        """How many facts are known, how many of them as words alone, and how many messages wait to be read for more."""
        memory = self.memory
        known, words = (0, 0) if memory is None else (len(memory.facts()), len(memory.unlearned()))
        return {"known": known, "in_words": words, "messages_waiting": self.waiting}


def chosen_memory(where: Path, version: int | None) -> Memory:
    """A memory that was saved alone, or a version out of a store: the current one when none is named."""
    kept = Kept.read(where, version)
    if kept.memory is None:
        raise InputError(f"Nothing is remembered in {where} yet: {kept.waiting} messages wait to become memory.")
    return kept.memory


def remembered(directory: Path) -> Memory | None:
    """The current memory of one user's directory, None before the first."""
    kept = any((path / VERSIONS).is_dir() for path in (directory / STORE, directory))
    return open_store(directory).load() if kept else None


def load_version(store: MemoryStore, number: int) -> Memory:
    """A version of a store, which must be there."""
    if number not in store.versions():
        raise CheckpointError(f"{store.directory} has no version {number}. Versions are {store.versions()}.")
    memory = store.load(number)
    assert memory is not None
    return memory


def document_of(memory: Memory) -> dict[str, Any]:
    """A memory as JSON says it."""
    return {
        "base": memory.base_name,
        "fingerprint": memory.base,
        "created": memory.created,
        "bytes": memory.nbytes,
        "entries": [
            {
                "name": entry.name,
                "created": entry.created,
                "sources": [dataclasses.asdict(source) for source in entry.sources],
                "lessons": len(entry.lessons),
                "facts": len(entry.facts),
                "bytes": entry.nbytes,
            }
            for entry in memory.entries
        ],
        "report": None if memory.report is None else memory.report.to_dict(),
    }


def when(seconds: float) -> str:
    """A time for eyes."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
