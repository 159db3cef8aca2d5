"""The files of a `ChatSession` in the directory of its user, and how to delete them without a model."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError
from ..memory.store import VERSIONS, MemoryStore
from ..util.files import read_list, remove, remove_unfinished
from ..util.messages import Message, is_message

TURNS, FACTS, STORE, WORK, LOCK = "turns.json", "facts.json", "memory", "work", "lock"  # in a user's directory
CHANGES = "changes.json"  # beside them: changes of facts that wait


def is_session_directory(directory: Path) -> bool:
    """Whether it holds a session's messages or memory."""
    return (directory / TURNS).is_file() or (directory / STORE).is_dir()


def stored_messages(directory: Path) -> list[Message]:
    """The messages in a user's directory that are not memory yet.

    Raises
    ------
    CheckpointError
        When the file is damaged.
    """
    return read_list(directory / TURNS, "messages", is_message, "Move it away to go on without its turns.")


def open_store(directory: Path) -> MemoryStore:
    """The memory store in a user's directory, or the directory itself where it is one.

    Raises
    ------
    InputError
        When there is none.
    """
    for path in (directory / STORE, directory):
        if (path / VERSIONS).is_dir():
            return MemoryStore(path)
    raise InputError(
        f"{directory} holds no memory store. Expected the directory that was given to `chat --memory`, to "
        "`consolidate --memory` or to ChatSession."
    )


def erase_directory(directory: Path) -> None:
    """Delete messages, memory and unfinished work of a user. No session may be open on the directory."""
    store = MemoryStore(directory / STORE)
    store.erase()
    with store.writing():
        for name in (FACTS, TURNS, CHANGES):
            (directory / name).unlink(missing_ok=True)
        remove(directory / WORK)
        remove_unfinished(directory)
