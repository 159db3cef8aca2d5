"""Adapters of many users in one directory, as vLLM's filesystem resolver reads it: one directory a user.

This file does not know whose names they are, nor what a store is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import tempfile
from pathlib import Path

from ..errors import InputError
from ..util.files import private_directory, remove
from .memory import Memory

VERSIONS = ".versions"
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")  # one part of a path, and not hidden


def export_version(
    memory: Memory | None, directory: Path, name: str, *, engine: str | None, rank: int, base_name: str | None
) -> Path | None:
    """Make `directory/name` a link to the memory's adapter; see `MemoryStore.export`."""
    if not NAME.fullmatch(name):
        raise InputError(
            f"An adapter cannot be named {name!r}. Expected up to 255 letters, digits, '_', '-' and '.', and no '.' in "
            "front."
        )
    if (directory / name).is_dir() and not (directory / name).is_symlink():
        raise InputError(
            f"{directory / name} is a directory that was not exported here. Use another name or directory."
        )
    versions = directory / VERSIONS / name
    if memory is None or not memory.entries:
        delete_exported(directory, name)
        return None
    memory = dataclasses.replace(memory, base_name=base_name or memory.base_name)
    path = private_directory(versions) / _digest(memory, engine, rank)
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=versions) as unfinished:
            memory.to_lora(Path(unfinished) / "adapter", rank=rank, engine=engine)
            os.replace(Path(unfinished) / "adapter", path)
    with tempfile.TemporaryDirectory(dir=versions) as unfinished:
        link = Path(unfinished) / "link"
        link.symlink_to(Path(VERSIONS) / name / path.name, target_is_directory=True)
        os.replace(link, directory / name)
    for other in versions.iterdir():
        if other != path:
            remove(other)
    return path


def delete_exported(directory: Path, name: str) -> None:
    """Delete an adapter; nothing where there is none."""
    (directory / name).unlink(missing_ok=True)
    remove(directory / VERSIONS / name)


def exported(directory: Path) -> list[str]:
    """The names of all adapters there."""
    return sorted(path.name for path in directory.iterdir() if path.is_symlink() and NAME.fullmatch(path.name))


def _digest(memory: Memory, engine: str | None, rank: int) -> str:
    """Changes with the adapter, and with what it was checked for."""
    said = [memory.base_name, str(engine), str(rank), *(entry.digest for entry in memory.entries)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:32]
