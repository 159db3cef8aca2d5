"""Writing so that a kill or a full disk leaves either the old file or the new one, and reading what was written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

LIST_FORMAT = 1  # of the files that `write_list` writes


def private_directory(path: Path) -> Path:
    """Make a directory, and those above it that are missing, for its owner only; one that is there stays as it is."""
    if not path.is_dir():
        private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, readable by its owner only: memories are personal."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Delete a directory and all that is in it; nothing where there is none. What cannot be deleted raises."""
    if directory.exists():
        shutil.rmtree(directory)


def remove_unfinished(directory: Path) -> None:
    """Delete what `write_atomically` left in a directory when it was killed."""
    for path in directory.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def write_list(path: Path, name: str, items: list[Any]) -> None:
    """Replace `path` by JSON that holds a list under a name."""
    write_atomically(path, json.dumps({"format": LIST_FORMAT, name: items}).encode())


def read_list(path: Path, name: str, otherwise: str) -> list[Any]:
    """What `write_list` wrote; empty where there is no file.

    Raises
    ------
    CheckpointError
        When the file is damaged, with what there is to do (`otherwise`), or of another format.
    """
    try:
        stored = json.loads(path.read_text())
        found, items = stored["format"], list(stored[name])
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}. {otherwise}") from error
    if found != LIST_FORMAT:
        raise CheckpointError(f"{path} is of format {found}, expected {LIST_FORMAT}. Use the version that wrote it.")
    return items
