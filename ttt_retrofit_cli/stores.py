"""Memories on disk for eyes and for JSON: one saved alone, or those of a user's directory."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_retrofit import CheckpointError, InputError, Memory
from ttt_retrofit.chat.all_facts import all_facts, shown
from ttt_retrofit.chat.directory import STORE, open_store
from ttt_retrofit.chat.waiting import Waiting
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.memory.store import VERSIONS, MemoryStore


@dataclass(frozen=True)
class Kept:
    """What is kept of one user: a memory, or none yet, and messages that are still words, with their facts.

    Attributes
    ----------
    told : all facts, of the memory and waiting ones; of a version that was named, its own.
    """

    memory: Memory | None
    version: int | None
    waiting: int
    told: list[Fact]

    @classmethod
    def _of(cls, memory: Memory | None, version: int | None, waiting: Waiting, named: bool = False) -> Kept:
        known = [] if named else waiting.facts(lambda fact: True)
        return cls(memory, version, len(waiting.messages), all_facts(memory, known, {} if named else waiting.ended()))

    @classmethod
    def read(cls, where: Path, version: int | None = None) -> Kept:
        """What a directory holds: a memory saved alone, a version, or the current one.

        Raises
        ------
        InputError
            When there is nothing, or no version is current.
        """
        waiting = Waiting.stored(where)
        if (where / HEADER).exists():
            if version is not None:
                raise InputError(f"{where} is a memory saved alone, which has no version {version}.")
            return cls._of(Memory.load(where), None, waiting)
        if waiting.messages and version is None and not (where / STORE / VERSIONS).is_dir():
            return cls._of(None, None, waiting)
        store = open_store(where)
        number = store.current() if version is None else version
        if number is None:
            raise InputError(f"In {where} no version is current; it has {store.versions()}. Name one with --version.")
        return cls._of(load_version(store, number), number, waiting, named=version is not None)

    @property
    def facts(self) -> dict[str, int]:
        """How many facts a memory knows, how many of them as words alone; how many wait, and of how many messages."""
        current = shown(self.told, "current")
        return {
            "known": len(current),
            "in_words": sum(fact.learned is False for fact in current),
            "waiting": len(shown(self.told, "waiting")),
            "messages_waiting": self.waiting,
        }


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
