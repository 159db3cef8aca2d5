"""The users of a server on disk: a directory for each, named by a hash, with the id in a private file.

It does not know what else is in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import InputError
from ..util.files import private_directory, remove, remove_unfinished, write_atomically
from .identity import check_identity

IDENTITY = "user.json"  # in a user's directory
FOLDER = re.compile(r"[0-9a-f]{32}")
GONE = ".erased-"  # before the name of a directory that is being deleted


def folder(identity: str) -> str:
    """The name of a user's directory: nothing that a user sends becomes part of a path.

    Raises
    ------
    InputError
        For what is no user id.
    """
    return hashlib.sha256(check_identity(identity).encode()).hexdigest()[:32]


def folders(directory: Path) -> list[Path]:
    """The directories of all users of a store."""
    return sorted(path for path in directory.iterdir() if FOLDER.fullmatch(path.name) and path.is_dir())


def write_identity(path: Path, identity: str) -> None:
    """Say whose directory it is, in a file for its owner only."""
    write_atomically(path / IDENTITY, json.dumps({"id": identity}).encode())


def read_identity(path: Path) -> str | None:
    """Whose directory it is; None where no file says so, or the file says what the directory's name contradicts.

    Directories of earlier versions hold no id until their user is seen again.
    """
    try:
        identity = str(json.loads((path / IDENTITY).read_text())["id"])
        return identity if folder(identity) == path.name else None
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged: then nothing says whose it is
        return None


def delete(path: Path) -> None:
    """Delete a user's directory. It is renamed first: a kill half way leaves no user, and `tidy` deletes the rest."""
    gone = path.with_name(GONE + path.name)
    remove(gone)
    if path.is_dir():
        path.rename(gone)
        remove(gone)


def tidy(directory: Path) -> None:
    """Delete what kills have left in a store that nobody uses: directories half deleted, and files half written."""
    for path in directory.glob(f"{GONE}*"):
        remove(path)
    for path in folders(directory):
        for inside, _, _ in os.walk(path):
            remove_unfinished(Path(inside))


def held(directory: Path) -> FileLock:
    """Hold a server's store against a second one.

    Raises
    ------
    InputError
        When another process holds it.
    """
    # Released by another thread than the one that acquired it.
    lock = FileLock(private_directory(directory) / "serving.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"A server is using {directory}. Stop it, or ask it: DELETE /v1/memories/USER erases a user."
        ) from error
    return lock


def erase_stored(directory: Path, identity: str) -> bool:
    """Delete all that a server has stored of a user, while no server runs; whether there was anything.

    Raises
    ------
    InputError
        When a server is using the directory, or for what is no user id.
    """
    name = folder(identity)
    if not directory.is_dir():
        raise InputError(f"There is no directory {directory}. Expected what was given to `serve --store`.")
    lock, path = held(directory), directory / name
    try:
        found = path.is_dir()
        delete(path)
        tidy(directory)
        return found
    finally:
        lock.release()
