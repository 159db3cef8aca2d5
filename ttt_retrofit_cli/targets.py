"""Files and directories that a verb is to write."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ttt_retrofit.errors import InputError


def check_new(target: Path) -> None:
    """Raise `InputError` where something would be written over."""
    if target.exists():
        raise InputError(f"{target} exists already. Choose another name, or move it away first.")


def check_free(target: Path) -> None:
    """Raise `InputError` where no directory can be written; an empty one that is there is in nobody's way."""
    if not target.is_dir() or any(target.iterdir()):
        check_new(target)


def check_file(target: Path) -> None:
    """Raise `InputError` where no file can be written; directories above it may still have to be made."""
    if target.is_dir():
        raise InputError(f"{target} is a directory. Name a file to write, such as {target / 'state.safetensors'}.")
    above = next(directory for directory in target.absolute().parents if directory.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"{target} cannot be written: {above} is no directory that you may write to. Choose another.")


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `target` only when all of it is there.

    Raises
    ------
    InputError
        When `target` exists and holds something.
    """
    check_free(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as directory:
        whole = Path(directory, target.name)
        whole.mkdir()
        yield whole
        whole.replace(target)
