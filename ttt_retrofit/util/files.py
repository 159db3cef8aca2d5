"""Files: written so that a kill or a full disk leaves the old one or the new one, and read only where they are files.

A write goes to a file beside the one it replaces: of a name that nobody can guess, made anew, for its owner only, and
held by a lock while the write lasts. So whoever finds such a file that nobody holds knows that its write was killed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

LIST_FORMAT = 2  # of the files that `write_list` writes; format 1 had no checksum
UNFINISHED = (".*.tmp", ".tmp??????")  # ours, and those that safetensors' own writer leaves


def private_directory(path: Path) -> Path:
    """Make a directory, and those above it that are missing, for its owner only; one that is there stays as it is."""
    if not path.is_dir():
        private_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


# ---------------------------------------------------------------------- writing


@contextmanager
def staged(path: Path, pieces: Iterable[Any]) -> Iterator[None]:
    """Write pieces of bytes beside `path`; they take its place, readable by their owner only, when the block ends well.

    Nothing needs room on the disk after the block has begun.

    Raises
    ------
    OSError
        When the disk is full or may not be written, with the path in it. What was there before stays.
    """
    with _named(path):
        descriptor, temporary = _beside(path)
    try:
        with _named(path):
            for piece in pieces:
                _write(descriptor, piece)
            os.fsync(descriptor)
        yield
        os.replace(temporary, path)
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, *pieces: bytes) -> None:
    """Replace `path` by these bytes, readable by their owner only: memories are personal. Raises as `staged`."""
    with staged(path, pieces):
        pass


def _beside(path: Path) -> tuple[int, Path]:
    """A new file next to `path`, open and held; `mkstemp` follows no link and takes no file that is there."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.path.exists(name):
            return descriptor, Path(name)
        os.close(descriptor)  # taken for a left-over before it was held


def _write(descriptor: int, piece: Any) -> None:
    left = memoryview(piece)
    while len(left):
        left = left[os.write(descriptor, left) :]


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing to a descriptor do not say which file it was."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


# ---------------------------------------------------------------------- deleting


def remove(directory: Path) -> None:
    """Delete a directory and all that is in it; nothing where there is none. What cannot be deleted raises."""
    if directory.exists():
        shutil.rmtree(directory)


def remove_unfinished(directory: Path) -> None:
    """Delete what killed writes left in a directory and below it, whoever made it. A write at work keeps its file."""
    for pattern in UNFINISHED:
        for path in directory.rglob(pattern):
            remove_left_over(path)


def remove_left_over(path: Path) -> None:
    """Delete the file of a killed write; not that of one at work."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    if not path.is_file():
        return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)  # NFS locks only what may be written
    except FileNotFoundError:
        return  # its write has ended
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        pass  # its write is at work
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------- reading


def check_regular(path: Path) -> None:
    """Raise `CheckpointError` for a pipe, a device or a directory: reading some of them would never end.

    So it does for a link that leads nowhere. Raises `FileNotFoundError` where there is nothing.
    """
    _check_link(path)
    _check_mode(path, path.stat().st_mode)


def check_regular_inside(directory: Path) -> None:
    """The same for all that stands in a directory besides directories; nothing where there is no directory."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if not path.is_dir():
            check_regular(path)


def read_regular(path: Path) -> bytes:
    """The bytes of a file; raises as `check_regular`."""
    _check_link(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # without waiting for whoever writes into a pipe
    try:
        _check_mode(path, os.fstat(descriptor).st_mode)
    except CheckpointError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        return file.read()


def _check_link(path: Path) -> None:
    """Raise `CheckpointError` for a link that leads nowhere: what it stood for is lost, not absent."""
    if path.is_symlink():
        try:
            path.stat()
        except OSError as error:
            raise CheckpointError(
                f"{path} is a link that leads nowhere ({error.strerror}). Restore what it led to."
            ) from error


def _check_mode(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is a {_kind(mode)}, expected a regular file.")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def parsed(data: bytes | str) -> Any:
    """JSON of a file that anyone may have written.

    Raises
    ------
    ValueError
        For what is no JSON, or nested so deeply that it cannot be read.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


# ---------------------------------------------------------------------- lists


def write_list(path: Path, name: str, items: list[Any]) -> None:
    """Replace `path` by JSON that holds a list under a name, and its checksum."""
    write_atomically(path, list_bytes(name, items))


def list_bytes(name: str, items: list[Any]) -> bytes:
    """What `write_list` writes."""
    content: dict[str, Any] = {"format": LIST_FORMAT, name: items}
    return json.dumps(content | {"sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}).encode()


def read_list(path: Path, name: str, valid: Callable[[Any], bool], otherwise: str) -> list[Any]:
    """What `write_list` wrote, in this format or the one before; empty where there is no file.

    Parameters
    ----------
    valid : whether an item is one that was written.
    otherwise : what there is to do where the file is damaged.

    Raises
    ------
    CheckpointError
        When the file is damaged, altered or of another format.
    """
    try:
        data = read_regular(path)
        stored = parsed(data)
        if not isinstance(stored, dict):
            raise ValueError(f"it holds a {type(stored).__name__}")
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}. {otherwise}") from error
    found, items = stored.get("format"), stored.get(name)
    if type(found) is not int or not 1 <= found <= LIST_FORMAT:
        raise CheckpointError(
            f"{path} is of format {found!r}, expected {LIST_FORMAT} or 1. Use the version that wrote it. {otherwise}"
        )
    if not isinstance(items, list) or not all(map(valid, items)):
        raise CheckpointError(f"{path} is damaged: its {name} are not what was written there. {otherwise}")
    if found == 1 and set(stored) != {"format", name}:
        raise CheckpointError(f"{path} is damaged: it holds {sorted(stored)}. {otherwise}")
    if found == LIST_FORMAT and data != list_bytes(name, items):
        raise CheckpointError(f"{path} was altered: its checksum is not the one recorded. {otherwise}")
    return items
