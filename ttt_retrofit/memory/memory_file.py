"""A memory on disk: `memory.json` and its tensors, checksummed, written atomically, never pickled.

Several may save to one directory: each holds it while it writes. Readers hold nothing; one whose tensors are gone or
others begins again where the header was replaced meanwhile. It may have been replaced twice, by the same in the end, so
the last word is what is read while nobody writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from ..errors import CheckpointError
from ..util.files import parsed, private_directory, read_regular, remove_unfinished, write_atomically
from .checks import check_header, check_parts
from .config import MemoryConfig
from .entry import Entry
from .gates import Background
from .report import Report

FORMAT = 1
BACKGROUND = ("centre", "directions", "shrink")
HEADER = "memory.json"
HEADER_DIGEST = "header_sha256"  # memories that were saved without it still load
# What is raised where JSON, settings or tensors are not as `write` wrote them.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError, SafetensorError)
LOCK = "lock"  # of whoever writes to the directory
TENSORS = re.compile(r"memory-[0-9a-f]{16}\.safetensors")


def write_directory(path: Path, parts: Mapping[str, Any]) -> Path:
    """Write what a memory is made of, its fields by name. The JSON is replaced last: a kill leaves what was there."""
    path = private_directory(path)
    blob = tensors_to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in _named(parts).items()})
    digest = hashlib.sha256(blob).hexdigest()
    name = f"memory-{digest[:16]}.safetensors"
    report = parts["report"]
    header: dict[str, Any] = {
        "format": FORMAT,
        "base": parts["base"],
        "base_name": parts["base_name"],
        "config": parts["config"].to_dict(),
        "layer": parts["layer"],
        "created": parts["created"],
        "opener": list(parts["opener"]),
        "report": None if report is None else report.to_dict(),
        "tensors": name,
        "sha256": digest,
        "entries": [entry.header() for entry in parts["entries"]],
    }
    header[HEADER_DIGEST] = _header_digest(header)
    with FileLock(path / LOCK, mode=0o600):
        remove_unfinished(path)
        write_atomically(path / name, blob)
        write_atomically(path / HEADER, json.dumps(header, indent=1).encode())
        for old in path.glob("memory-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)
    return path


def read_directory(path: str | os.PathLike[str], hub_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The same from a directory, or from a repository on the Hub.

    Raises
    ------
    CheckpointError
        When it is missing, incomplete, altered, or of another format.
    """
    directory = Path(path)
    if not (directory / HEADER).exists() and not directory.exists():
        directory = _from_hub(str(path), hub_kwargs)
    while True:
        data = _header(directory)
        try:
            return _parts(directory, data)
        except CheckpointError as error:
            if _header(directory) != data:
                continue
            # Whoever could be writing has saved here, and a name is never that of other tensors.
            if not isinstance(error.__cause__, FileNotFoundError) or not (directory / LOCK).is_file():
                raise
            break
    with FileLock(directory / LOCK, mode=0o600):
        return _parts(directory, _header(directory))


def _header(directory: Path) -> bytes:
    try:
        return read_regular(directory / HEADER)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _incomplete(directory, HEADER) from error


def _parts(directory: Path, data: bytes) -> dict[str, Any]:
    """What a memory is made of, by the bytes of its header."""
    try:
        header = parsed(data)
        if header["format"] != FORMAT:
            raise CheckpointError(f"{directory} is a memory of format {header['format']}, expected {FORMAT}.")
        recorded = header.pop(HEADER_DIGEST, None)
        if recorded is not None:
            _check_digest(directory, HEADER, _header_digest(header), recorded)
        check_header(header)
        if not TENSORS.fullmatch(header["tensors"]):
            raise ValueError(f"it names {header['tensors'][:80]!r} as its tensors")
        blob = read_regular(directory / header["tensors"])
        _check_digest(directory, header["tensors"], hashlib.sha256(blob).hexdigest(), header["sha256"])
        tensors = tensors_from_bytes(blob)
        entries = tuple(Entry.read(stored, _numbered(tensors, index)) for index, stored in enumerate(header["entries"]))
        report = header["report"]
        parts = {
            "base": header["base"],
            "base_name": header["base_name"],
            "config": _config(directory, header["config"]),
            "layer": header["layer"],
            "background": Background(*(tensors[f"background|{name}"] for name in BACKGROUND)),
            "entries": entries,
            "report": None if report is None else Report.from_dict(report),
            "created": header["created"],
            "opener": tuple(header.get("opener", ())),  # memories that were saved without it have none
        }
        check_parts(parts, tensors, _named(parts))
        return parts
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise _incomplete(directory, Path(error.filename).name) from error
    except UNREADABLE as error:
        raise CheckpointError(f"{directory} cannot be read as a memory: {error!r}. Use another copy.") from error


def _config(directory: Path, fields: dict[str, Any]) -> MemoryConfig:
    """Earlier versions wrote the `kind` of a memory's weights, too."""
    kind = fields.pop("kind", "lora")
    if kind == "full":
        raise CheckpointError(
            f"{directory} is a memory of full matrices (kind='full'), which this version does not load. Consolidate "
            "the context again: a memory of low rank holds as much."
        )
    if kind != "lora":
        raise ValueError(f"it holds weights of kind {kind!r}")
    return MemoryConfig.from_dict(fields)


def _incomplete(directory: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{directory} holds no complete memory: {name} is missing. Expected a directory written by Memory.save()."
    )


def _named(parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a memory, by their names in its file."""
    tensors = {f"background|{name}": tensor for name, tensor in background_tensors(parts["background"]).items()}
    for index, entry in enumerate(parts["entries"]):
        tensors |= {f"{index}|{name}": tensor for name, tensor in entry.tensors().items()}
    return tensors


def background_tensors(background: Background) -> dict[str, Tensor]:
    return {name: getattr(background, name) for name in BACKGROUND}


def _header_digest(header: dict[str, Any]) -> str:
    """Of what a header says, however it is laid out: sha256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _check_digest(path: str | os.PathLike[str], name: str, found: str, recorded: str) -> None:
    if found != recorded:
        raise CheckpointError(
            f"{path} was altered or cut short: the sha256 of {name} is not the one recorded. "
            "Use another copy, or roll back to an earlier version."
        )


def _from_hub(name: str, kwargs: dict[str, Any]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[HEADER, "*.safetensors", "README.md"], **kwargs))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name!r} is neither a directory that holds {HEADER} nor a repository that could be fetched: {error}"
        ) from error


def _numbered(tensors: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The tensors of the entry with that number, by their own names."""
    return {name.partition("|")[2]: tensor for name, tensor in tensors.items() if name.partition("|")[0] == str(index)}
