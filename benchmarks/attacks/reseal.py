"""Files whose checksums are right and whose content is not: as somebody makes them who can write the directory.

It knows no format. What a checksum is of, loading says: the digests that are computed while a whole file is loaded, and
stand in it, are the recorded ones, and those that the same calls compute of a changed file are put in their place.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from .damage import Nothing, bad_value
from .verdict import apart

ROUNDS = 6  # of loading and resealing: one checksum may be of another


class _Digest:
    """A sha256 whose result is written down."""

    def __init__(self, inner: Any, noted: list[str]) -> None:
        self._inner, self._noted = inner, noted

    def update(self, data: Any) -> None:
        self._inner.update(data)

    def hexdigest(self) -> str:
        self._noted.append(self._inner.hexdigest())
        return self._noted[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def _noting() -> Iterator[list[str]]:
    noted: list[str] = []
    plain = hashlib.sha256
    hashlib.sha256 = lambda *args, **kwargs: _Digest(plain(*args, **kwargs), noted)  # type: ignore[assignment]
    try:
        yield noted
    finally:
        hashlib.sha256 = plain  # type: ignore[assignment]


def _digests(load: Callable[[], Any]) -> list[str]:
    """Those that are computed while something is loaded, whether or not it is refused."""

    def noted() -> list[str]:
        with _noting() as found, suppress(Exception):
            load()
        return found

    ended = apart(noted)
    return ended.what if ended.how == "returned" else []


def resealed(file: Path, load: Callable[[], Any], draw: random.Random) -> str:
    """Change one value of a file that holds JSON or tensors to one it cannot hold, and put its checksums right."""
    whole, before = file.read_bytes(), _digests(load)
    recorded = {index: digest for index, digest in enumerate(before) if digest.encode() in whole + _beside(file)}
    changed, said = _other_json(whole, draw) if file.suffix == ".json" else _other_tensors(file, draw)
    file.write_bytes(changed)
    for _ in range(ROUNDS):
        now = _digests(load)
        renewed = {index: now[index] for index in recorded if index < len(now) and now[index] != recorded[index]}
        if not renewed:
            break
        for index, digest in renewed.items():
            for path in (path for path in file.parent.iterdir() if path.is_file()):
                data = path.read_bytes()
                if recorded[index].encode() in data:
                    path.write_bytes(data.replace(recorded[index].encode(), digest.encode()))
            recorded[index] = digest
    return said


def _beside(file: Path) -> bytes:
    return b"".join(path.read_bytes() for path in file.parent.glob("*.json") if path != file)


def _other_json(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    content = json.loads(data)
    said = bad_value(content, draw)
    return json.dumps(content).encode(), said


def _other_tensors(file: Path, draw: random.Random) -> tuple[bytes, str]:
    with safe_open(file, "pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 -- not a mapping
        texts = dict(opened.metadata() or {})
    headers = [name for name, text in texts.items() if text.startswith(("{", "["))]
    if headers and draw.random() < 0.5:
        name = draw.choice(headers)
        changed, said = _other_json(texts[name].encode(), draw)
        texts[name] = changed.decode()
    else:
        said = _worsen(tensors, draw)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, texts or None), said


def _worsen(tensors: dict[str, torch.Tensor], draw: random.Random) -> str:
    """One tensor is gone, of another shape or dtype, or holds what is no number, or an id or rank there cannot be."""
    if not tensors:
        raise Nothing
    name = draw.choice(sorted(tensors))
    tensor = tensors[name]
    how = draw.choice(["gone", "shape", "dtype", "value", "value"])
    if how == "gone":
        del tensors[name]
    elif how == "shape":
        tensors[name] = torch.cat([tensor, tensor]) if tensor.ndim else tensor[None]
    elif how == "dtype":
        tensors[name] = tensor.to(torch.int32 if tensor.is_floating_point() else torch.float64)
    elif tensor.numel() and tensor.dtype != torch.bool:
        bad = draw.choice([float("nan"), float("inf")]) if tensor.is_floating_point() else draw.choice([-7, 2**31 - 1])
        tensors[name] = (
            tensor.flatten().index_fill(0, torch.tensor(draw.randrange(tensor.numel())), bad).view_as(tensor)
        )
    else:
        raise Nothing
    return f"{name}: {how}"
