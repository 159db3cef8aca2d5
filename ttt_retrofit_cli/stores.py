"""Memories on disk by directory: one saved alone, or a version out of a user's store."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from ttt_retrofit import CheckpointError, InputError, Memory
from ttt_retrofit.chat.directory import open_store
from ttt_retrofit.memory.memory_file import HEADER
from ttt_retrofit.memory.store import MemoryStore


def chosen_memory(where: Path, version: int | None) -> Memory:
    """A memory that was saved alone, or a version out of a store: the current one when none is named."""
    if (where / HEADER).exists():
        if version is not None:
            raise InputError(f"{where} is a memory saved alone, which has no version {version}.")
        return Memory.load(where)
    store = open_store(where)
    number = store.current() if version is None else version
    if number is None:
        raise InputError(f"In {where} no version is current; it has {store.versions()}. Name one with --version.")
    return load_version(store, number)


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
