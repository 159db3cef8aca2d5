"""A directory for a verb that is to keep nothing: it goes however the verb ends, at the latest when the next begins."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from filelock import FileLock, Timeout

PREFIX = "ttt-retrofit-"
LOCK = "alive.lock"  # held by the process that uses the directory, and by nobody once it is dead
YOUNG = 60.0  # seconds in which a directory may not have its lock yet


@contextmanager
def passing_directory() -> Iterator[Path]:
    """An empty directory that goes at the end; those of processes that were killed go first."""
    remove_abandoned()
    with TemporaryDirectory(prefix=PREFIX) as made, FileLock(Path(made, LOCK)):
        where = Path(made, "kept")
        where.mkdir(mode=0o700)
        yield where


def remove_abandoned() -> None:
    """Delete the directories of this user's processes that are dead."""
    for path in Path(gettempdir()).glob(f"{PREFIX}*"):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            continue
        if not (path / LOCK).exists() and time.time() - found.st_mtime < YOUNG:
            continue
        try:
            with FileLock(path / LOCK, timeout=0):
                pass
        except Timeout:
            continue
        shutil.rmtree(path, ignore_errors=True)  # another process may be at it
