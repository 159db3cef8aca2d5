"""`MemoryStore`: the versions of one user's memory in a directory, one writer at a time.

`current.json` names the current version and those it was built on, and is replaced last: whatever is killed half
way, it names a whole one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..config import is_integer
from ..errors import CheckpointError, ConfigError, InputError
from ..util.display import Displayed, Rows
from ..util.files import parsed, private_directory, read_regular, remove, remove_unfinished, write_atomically
from ..util.sealed import DIGEST
from .adapters import export_version
from .memory import Memory
from .memory_file import HEADER

CURRENT = "current.json"
VERSIONS = "versions"


class MemoryStore(Displayed):
    """Versions of a memory on disk, numbered from 1.

    Parameters
    ----------
    directory : made if it is not there, readable by its owner only.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = private_directory(Path(directory))
        self._lock = FileLock(self.directory / "lock", mode=0o600)

    def _rows(self) -> Rows:
        return {"directory": str(self.directory)}

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
        return sorted(int(path.parent.name) for path in found if re.fullmatch(r"[0-9]{6,18}", path.parent.name))

    def current(self) -> int | None:
        """The number of the current version, or None before the first."""
        history = self.history()
        return history[-1] if history else None

    def state(self) -> bytes:
        """Changes with every change of what `load` gives."""
        number = self.current()
        if number is None:
            return b""
        header = self._path(number) / HEADER
        return (self.directory / CURRENT).read_bytes() + (header.read_bytes() if header.exists() else b"")

    def history(self) -> list[int]:
        """The versions that the current one was built on, oldest first, and itself. `rollback` leads through them, step
        by step; not to those that were gone back from, nor to those that were pruned.
        """
        path = self.directory / CURRENT
        try:
            found = parsed(read_regular(path))
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}. {self._otherwise()}") from error
        whole = self.versions()
        if not isinstance(found, dict) or not set(found) <= {"version", "before", DIGEST}:
            raise CheckpointError(f"{path} is damaged: it names no version. {self._otherwise()}")
        number: Any = found.get("version")
        before = found.get("before", [version for version in whole if is_integer(number) and version < number])
        if not isinstance(before, list) or not all(map(_is_version, [*before, number])):
            raise CheckpointError(f"{path} is damaged: it names no version. {self._otherwise()}")
        if DIGEST in found and found != _pointer([*before, number]):
            raise CheckpointError(f"{path} was altered: its checksum is not the one recorded. {self._otherwise()}")
        return [*(version for version in before if version in whole), number]

    def _otherwise(self) -> str:
        return f'Write {{"version": N}} into it, N one of {self.versions()}.'

    def load(self, version: int | None = None) -> Memory | None:
        """A version, by default the current one; None in an empty store.

        Raises
        ------
        CheckpointError
            When its files are missing or altered. Earlier versions can still be loaded by their numbers.
        """
        if version is not None:
            return Memory.load(self._path(version))
        number = self.current()
        while number is not None:
            try:
                return Memory.load(self._path(number))
            except CheckpointError:
                before, number = number, self.current()
                if number == before:
                    raise  # else it was pruned while it was read
        return None

    def save(self, memory: Memory) -> int:
        """Write a new version and make it the current one; returns its number. Nothing is overwritten."""
        with self.writing():
            number = max(self.versions(), default=0) + 1
            path = self._path(number)
            shutil.rmtree(path, ignore_errors=True)  # left by a write that was killed
            try:
                memory.save(path)
                self._point_to([*self.history(), number])
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
            history = self.history()
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
        """Delete all but the newest `keep` versions, the current one and the `keep - 1` it was built on last, to which
        `rollback` goes; returns what was deleted. What a kill has left half deleted goes, too.

        Raises
        ------
        InputError
            When `keep` is not at least 1.
        """
        if keep < 1:
            raise InputError(f"prune({keep}): expected to keep at least 1 version. erase() deletes them all.")
        with self.writing():
            whole = self.versions()
            kept = {*whole[-keep:], *self.history()[-keep:]}
            gone = [version for version in whole if version not in kept]
            for version in gone:
                (self._path(version) / HEADER).unlink()  # first: whatever is killed half way, it is no version anymore
            for path in (self.directory / VERSIONS).glob("*"):
                if path.name.isdigit() and int(path.name) not in kept:
                    shutil.rmtree(path)
            return gone

    def export(
        self,
        directory: str | os.PathLike[str],
        name: str,
        *,
        engine: str | None = "vllm",
        rank: int = 16,
        base_name: str | None = None,
    ) -> Path | None:
        """Write the current version as an adapter, laid out for vLLM's filesystem resolver, which serves it as `name`.

        `directory/name` is a link to `directory/.versions/name/DIGEST`, so that a reader finds one whole adapter. What
        was exported under the name before is deleted. A server that has an adapter loaded keeps it until it is told:
        `POST /v1/load_lora_adapter` with `load_inplace` and the path that is returned. That path changes with the
        weights, as vLLM's prefix cache expects.

        Parameters
        ----------
        directory : for the adapters of all users: `VLLM_LORA_RESOLVER_CACHE_DIR`.
        name : what requests give as `model`; letters, digits, "_", "-" and ".", no "." in front.
        engine, rank : as in `Memory.to_lora`.
        base_name : the model that the server is started with, where it is not the memory's `base_name`. The resolver
            passes over adapters of other models.

        Returns
        -------
        The directory that holds the adapter. None where nothing is remembered: there is no adapter of that name then.

        Raises
        ------
        InputError
            For another name.
        ConfigError
            For a rank below 1, or an adapter that the engine would not load.
        """
        return export_version(self.load(), Path(directory), name, engine=engine, rank=rank, base_name=base_name)

    def erase(self) -> None:
        """Delete every version: what the user said is gone from here."""
        with self.writing():
            (self.directory / CURRENT).unlink(missing_ok=True)
            remove(self.directory / VERSIONS)
            remove_unfinished(self.directory)

    def _path(self, version: int) -> Path:
        return self.directory / VERSIONS / f"{version:06d}"

    def _point_to(self, history: list[int]) -> None:
        write_atomically(self.directory / CURRENT, json.dumps(_pointer(history)).encode())


def _pointer(history: list[int]) -> dict[str, Any]:
    """What `current.json` holds."""
    *before, version = history
    named: dict[str, Any] = {"version": version, "before": before}
    return named | {DIGEST: hashlib.sha256(json.dumps(named).encode()).hexdigest()}


def _is_version(value: object) -> bool:
    return is_integer(value) and 1 <= value < 10**18  # type: ignore[operator]
