"""Writing so that a kill or a full disk leaves either the old file or the new one."""

from __future__ import annotations

import os
from pathlib import Path


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
