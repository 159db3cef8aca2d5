"""Memories on disk for eyes and for JSON: one saved alone, or those of a user's directory."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_retrofit import CheckpointError, InputError, Memory
from ttt_retrofit.chat.directory import STORE, TURNS, open_store
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.memory.store import VERSIONS, MemoryStore
from ttt_retrofit.util.files import read_list
from ttt_retrofit.util.messages import is_message


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
