"""Tensors and text in one safetensors file, under a checksum of all of it.

The checksum is the sha256 of the text, of the tensors' names, dtypes and shapes, and of the sums of the 64-bit words of
every 4,096 bytes of each tensor. The sums find any change of a word at the speed of memory; sha256 of the tensors
themselves would take as long as writing them. It guards against damage. Against malice it cannot: whoever may write the
file may seal it again, so that what is read is still to be checked.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from .files import check_regular, staged

DIGEST = "sha256"
BLOCK, WORD = 4096, 8  # bytes that are summed at a time, and of a word
# The names that safetensors has for dtypes.
NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.bool: "BOOL",
}


def write_sealed(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> None:
    """Replace `path` by tensors, on any device, and texts by name; atomically, readable by its owner only.

    Raises
    ------
    OSError
        When the disk is full or may not be written, with the path in it. What was there before stays.
    """
    named = {name: tensor.detach().contiguous() for name, tensor in _laid_out(tensors)}
    with staged(path, _pieces(named, {**texts, DIGEST: _digest(named, texts)})):
        pass


def read_sealed(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts of a file.

    One that another version wrote without a checksum is read, too. It holds one text.

    Raises
    ------
    CheckpointError
        When it is missing, no regular file, altered or cut short.
    """
    try:
        check_regular(path)
        with torch.inference_mode(False), safe_open(path, framework="pt", device=device) as file:
            texts = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Use another copy, or save it again.") from error
    recorded = texts.pop(DIGEST, None)
    if recorded is None and len(texts) > 1:
        raise CheckpointError(f"{path} was altered: it lacks a checksum. Use another copy, or save it again.")
    if recorded is not None and recorded != _digest(dict(_laid_out(tensors)), texts):
        raise CheckpointError(
            f"{path} was altered or cut short: its checksum is not the one recorded. Use another copy, or save it "
            "again."
        )
    return tensors, texts


def _laid_out(tensors: dict[str, Tensor]) -> list[tuple[str, Tensor]]:
    """In the order of the file: those of whole words first, so that all of these begin where a word does."""
    return sorted(tensors.items(), key=lambda item: (item[1].nbytes % WORD != 0, -item[1].element_size(), item[0]))


def _pieces(tensors: dict[str, Tensor], texts: dict[str, str]) -> Iterator[Any]:
    """What the file is made of, in the format of safetensors: the length of the header, the header, the tensors."""
    header: dict[str, Any] = {"__metadata__": texts}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % WORD)
    yield len(text).to_bytes(8, "little") + text
    for tensor in tensors.values():
        if tensor.numel():
            yield _bytes(tensor).cpu().numpy().data


def _digest(tensors: dict[str, Tensor], texts: dict[str, str]) -> str:
    kinds = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()]
    digest = hashlib.sha256(json.dumps([texts, kinds], sort_keys=True).encode())
    for parts in side_by_side(lambda tensor: [*_sums(_bytes(tensor))], tensors.values()):
        for sums in parts:
            digest.update(sums.cpu().numpy().data)
    return digest.hexdigest()


def side_by_side(function: Callable[[Tensor], Any], tensors: Iterable[Tensor]) -> list[Any]:
    """What `function` makes of each, computed in threads: a pass over memory is bound by what one core can read."""
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return [*pool.map(function, tensors)]


def digest_of_file(path: Path) -> str:
    """Of all bytes of a file, in the same way: several times faster than sha256 alone."""
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "little"))
    if size:
        for sums in _sums(torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)):
            digest.update(sums.numpy().data)
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def _sums(raw: Tensor) -> Iterator[Tensor]:
    """The sums of the words of every block, and of what is left behind the last, filled up with zeros."""
    if raw.storage_offset() % WORD:
        raw = raw.clone()
    whole = raw.numel() // BLOCK * BLOCK
    if whole:
        yield raw[:whole].view(torch.int64).view(-1, BLOCK // WORD).sum(1)
    if whole < raw.numel():
        yield F.pad(raw[whole:], (0, whole - raw.numel() + BLOCK)).view(torch.int64).sum(0, keepdim=True)
