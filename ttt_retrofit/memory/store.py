"""`MemoryStore`: the versions of one user's memory in a directory, one writer at a time.

`current.json` names the version that speaks and those it was built on, and is replaced last: whatever is killed half
way, it names a whole one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import CheckpointError, ConfigError, InputError
from ..files import private_directory, remove, remove_unfinished, write_atomically
from .memory import Memory
from .stored import HEADER

CURRENT = "current.json"
VERSIONS = "versions"


class MemoryStore:
    """Versions of a memory on disk, numbered from 1.

    Parameters
    ----------
    directory : made if it is not there, readable by its owner only.
    """

    def __init__(self, directory: str | os.PathLike) -> None:
        self.directory = private_directory(Path(directory))
        self._lock = FileLock(self.directory / "lock")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for writing.

        Raises
        ------
        InputError
            When another process holds it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"Another process is writing to the memory store {self.directory}. Close it, or use another store."
            ) from error
        try:
            yield
        finally:
            self._lock.release()

    def versions(self) -> list[int]:
        """The numbers of all versions that are whole, oldest first."""
        found = (self.directory / VERSIONS).glob(f"*/{HEADER}")
        return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())

    def current(self) -> int | None:
        """The number of the version that speaks, or None before the first."""
        history = self._history()
        return history[-1] if history else None

    def _history(self) -> list[int]:
        """The versions that the current one was built on, oldest first, and itself; not those that were gone back from,
        nor those that were pruned.
        """
        try:
            found = json.loads((self.directory / CURRENT).read_text())
            number, whole = int(found["version"]), self.versions()
            before = found.get("before", [version for version in whole if version < number])
            return [*(version for version in before if version in whole), number]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f'{self.directory / CURRENT} is damaged. Write {{"version": N}} into it, N one of {self.versions()}.'
            ) from error

    def load(self, version: int | None = None) -> Memory | None:
        """A version, by default the current one; None in an empty store.

        Raises
        ------
        CheckpointError
            When its files are missing or altered. Earlier versions can still be loaded by their numbers.
        """
        number = self.current() if version is None else version
        if number is None:
            return None
        return Memory.load(self._path(number))

    def save(self, memory: Memory) -> int:
        """Write a new version and make it the current one; returns its number. Nothing is overwritten."""
        with self.writing():
            number = max(self.versions(), default=0) + 1
            path = self._path(number)
            shutil.rmtree(path, ignore_errors=True)  # left by a write that was killed
            try:
                memory.save(path)
                self._point_to([*self._history(), number])
            except BaseException:
                shutil.rmtree(path, ignore_errors=True)
                raise
            return number

    def rollback(self) -> Memory | None:
        """Make the version that the current one was built on current; returns it, None before the first.

        Raises
        ------
        ConfigError
            When the store is empty.
        """
        with self.writing():
            history = self._history()
            if not history:
                raise ConfigError(f"The memory store {self.directory} is empty: there is no version to go back from.")
            before = history[:-1]
            if not before:
                (self.directory / CURRENT).unlink()
                return None
            memory = Memory.load(self._path(before[-1]))
            self._point_to(before)
            return memory

    def prune(self, keep: int) -> list[int]:
        """Delete all but the newest `keep` versions and the current one; returns what was deleted.

        Raises
        ------
        InputError
            When `keep` is not at least 1.
        """
        if keep < 1:
            raise InputError(f"prune({keep}): expected to keep at least 1 version. erase() deletes them all.")
        with self.writing():
            gone = [version for version in self.versions()[:-keep] if version != self.current()]
            for version in gone:
                shutil.rmtree(self._path(version))
            return gone

    def erase(self) -> None:
        """Delete every version: what the user said is gone from here."""
        with self.writing():
            (self.directory / CURRENT).unlink(missing_ok=True)
            remove(self.directory / VERSIONS)
            remove_unfinished(self.directory)

    def _path(self, version: int) -> Path:
        return self.directory / VERSIONS / f"{version:06d}"

    def _point_to(self, history: list[int]) -> None:
        *before, version = history
        write_atomically(self.directory / CURRENT, json.dumps({"version": version, "before": before}).encode())
