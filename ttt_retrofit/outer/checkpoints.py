"""Checkpoints of a training run that are whole or not there, whenever it is killed.

A checkpoint is written beside its place and renamed into it, sealed by the digests of its files; one that is to go is
renamed before it is deleted. It knows files and directories, and nothing of what is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..errors import CheckpointError, InputError

logger = logging.get_logger(__name__)

UNFINISHED = ".unfinished"  # a directory beside the checkpoints: what is being written or deleted
LOCK = ".lock"  # beside the checkpoints
SEAL = "sha256.json"  # in a checkpoint: the digest of each of its other files


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the directory of a run against a second one. Raises `InputError` where another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"Another training writes into {folder}. Wait for it, or use another output_dir.") from error
    try:
        yield
    finally:
        lock.release()


def numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by their step, oldest first, whole or not."""
    named = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
    found = {path: named.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ())}
    steps = {int(match[1]): path for path, match in found.items() if match and path.is_dir()}
    return dict(sorted(steps.items()))


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is whole; newer ones are named in a warning. None where there is none."""
    for path in reversed(numbered(folder).values()):
        wrong = fault(path)
        if wrong is None:
            return path
        logger.warning("The checkpoint %s is not whole and is skipped: %s.", path, wrong)
    return None


def check_whole(path: Path) -> None:
    """Raise `CheckpointError` for a checkpoint that is not whole."""
    wrong = fault(path)
    if wrong is not None:
        raise CheckpointError(
            f"{path} is no whole checkpoint: {wrong}. Resume from another, or from the newest whole one with "
            "resume_from_checkpoint=True."
        )


def seal(path: Path) -> None:
    """Have all files of a directory on the disk, and write down their digests."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    digests = {str(file.relative_to(path)): _digest(file, flush=True) for file in files}
    with open(path / SEAL, "w") as written:
        json.dump(digests, written, indent=1)
        written.flush()
        os.fsync(written.fileno())


def put_in_place(path: Path, folder: Path) -> None:
    """Rename a sealed checkpoint into the directory of its run, in the place of one of the same name."""
    target = folder / path.name
    if target.exists():
        _put_away(target)
    path.rename(target)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def rotate(folder: Path, limit: int | None, keep: set[Path]) -> None:
    """Delete the oldest checkpoints until at most `limit` are left, those to `keep` among them."""
    found = [path for path in numbered(folder).values() if path not in keep]
    surplus = len(found) + len(keep) - limit if limit is not None and limit > 0 else 0
    for path in found[: max(surplus, 0)]:
        _put_away(path)
    remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Delete what was being written or deleted when a run was killed."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    odd = [file.name for file in path.rglob("*") if not file.is_file() and (file.is_symlink() or not file.is_dir())]
    if odd:
        return f"{odd[0]} is no regular file"  # reading a pipe might never end
    try:
        state = json.loads((path / TRAINER_STATE_NAME).read_text())
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return f"{TRAINER_STATE_NAME} holds no step"
        if (path / SEAL).exists():
            return _fault_by_digest(path, json.loads((path / SEAL).read_text()))
        return _fault_by_form(path)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (
        OSError,
        ValueError,
        SafetensorError,
        zipfile.BadZipFile,
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
    ) as error:
        return f"a file is cut short or damaged ({error})"


def _fault_by_digest(path: Path, digests: dict[str, str]) -> str | None:
    for name, digest in digests.items():
        if _digest(path / name) != digest:
            return f"{name} is not as it was written"
    return None


def _fault_by_form(path: Path) -> str | None:
    """Of a checkpoint without a seal, as transformers' own Trainer writes it."""
    for index in path.glob("*.safetensors.index.json"):
        for shard in set(json.loads(index.read_text())["weight_map"].values()):
            (path / shard).stat()
    weights = [*path.rglob("*.safetensors")]
    if not weights:
        return "its weights are missing"
    for file in weights:
        with safe_open(file, "pt"):  # compares the header with the size of the file
            pass
    pickled = [*path.glob("*.pt"), *path.glob("*.pth")]  # none with `save_only_model`
    if pickled:
        for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
            (path / name).stat()
        if not any(path.glob("rng_state*.pth")):
            return "rng_state.pth is missing"
    for file in pickled:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            return f"{file.name} is damaged"
    return None


def _put_away(path: Path) -> None:
    """Delete a checkpoint, which is gone from its place at once."""
    aside = path.parent / UNFINISHED / f"{path.name}.deleted"
    aside.parent.mkdir(exist_ok=True)
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _digest(file: Path, flush: bool = False) -> str:
    with open(file, "rb") as opened:
        if flush:
            os.fsync(opened.fileno())
        return hashlib.file_digest(opened, "sha256").hexdigest()
