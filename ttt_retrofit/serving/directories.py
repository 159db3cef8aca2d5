"""The users of a server on disk: a directory for each, named by a hash, with the id in a private file.

This file does not know what else is in the directories.
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
DIRECTORY_NAME = re.compile(r"[0-9a-f]{32}")
SERVING = "serving.lock"  # in the directory of all: held by the server that uses it
ERASED = ".erased-"  # prefix of the name of a directory that is being deleted


def directory_name(identity: str) -> str:
    """The name of a user's directory, a hash: nothing that a user sends becomes part of a path.

    Raises
    ------
    InputError
        See `check_identity`.
    """
    return hashlib.sha256(check_identity(identity).encode()).hexdigest()[:32]


def user_directories(directory: Path) -> list[Path]:
    """The directories of all users of a store."""
    return sorted(path for path in directory.iterdir() if DIRECTORY_NAME.fullmatch(path.name) and path.is_dir())


def write_identity(path: Path, identity: str) -> None:
    """Write the user's id into the directory, in a file that only its owner can read."""
    write_atomically(path / IDENTITY, json.dumps({"id": identity}).encode())


def read_identity(path: Path) -> str | None:
    """The id of the directory's user. None without a readable file, or if the id does not match the directory's name.

    Directories of earlier versions hold no id until their user's next request.
    """
    try:
        identity = str(json.loads((path / IDENTITY).read_text())["id"])
        return identity if directory_name(identity) == path.name else None
    except (OSError, ValueError, LookupError, TypeError):  # missing or damaged
        return None


def delete(path: Path) -> None:
    """Delete a user's directory. It is renamed first: if the process is killed, `delete_leftovers` deletes the rest."""
    erased = path.with_name(ERASED + path.name)
    remove(erased)
    if path.is_dir():
        path.rename(erased)
        remove(erased)


def delete_leftovers(directory: Path) -> None:
    """Delete what killed processes left: directories half deleted, files half written. Call it under `lock_store`."""
    for path in directory.glob(f"{ERASED}*"):
        remove(path)
    for path in user_directories(directory):
        for parent, _, _ in os.walk(path):
            remove_unfinished(Path(parent))


def lock_store(directory: Path) -> FileLock:
    """Acquire the lock of a server's store.

    Raises
    ------
    InputError
        When another process holds it.
    """
    # Released by another thread than the one that acquired it.
    lock = FileLock(private_directory(directory) / SERVING, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"A server is using {directory}. Stop it, or ask it: DELETE /v1/memories/USER erases a user."
        ) from error
    return lock


def erase_stored(directory: Path, identity: str) -> bool:
    """Delete all that a server has stored of a user, while no server runs.

    Returns
    -------
    Whether anything was stored.

    Raises
    ------
    InputError
        When a server is using the directory, or there is none; and see `check_identity`.
    """
    name = directory_name(identity)
    if not directory.is_dir():
        raise InputError(f"There is no directory {directory}. Expected what was given to `serve --store`.")
    lock, path = lock_store(directory), directory / name
    try:
        found = path.is_dir()
        delete(path)
        delete_leftovers(directory)
        return found
    finally:
        lock.release()
