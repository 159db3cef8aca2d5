"""What the file of a `TTTCache` may hold: everything of it is compared with what the model's caches hold.

A checksum says that a file is as it was written, and not who wrote it; so types, shapes and ranges are checked, too.
B batch rows, C chunk, S sinks, D model width, H key-value heads, N kept tokens, M memories.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from operator import eq
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import TTTConfig, is_integer, is_number
from ..errors import CheckpointError, ConfigError
from ..memory.gates import GateState
from ..util.files import parsed, private_directory, remove_left_over
from ..util.registry import NotRegisteredError
from ..util.sealed import read_sealed, side_by_side, write_sealed
from .digest import of_text
from .kv import LayerGroup

CACHE_FORMAT = 2
TEXT = "ttt_cache"  # the header's name in the file
PENDING_TENSORS = ("ids", "positions", "learned")
GATE_STATES = ("topic", "pending_topic")  # of the cache, and of the unfinished chunk
HELD_TENSORS = ("held_ids", "held_unread")
# What a later text or mask is compared with, where it is known; earlier versions wrote neither, nor `ahead`.
COMPARED = ("marks", "digest")
LARGEST_POSITION = 2**40


@dataclass(frozen=True)
class Expected:
    """What the caches of a model hold."""

    ttt: TTTConfig
    vocabulary: int
    positions: int  # the first that is none
    width: int  # of hidden states
    groups: Sequence[LayerGroup]
    group_of: Sequence[int]
    kept: Sequence[tuple[tuple[int, int], tuple[int, int]] | None]  # (H, D) of keys and values, by layer
    fast: dict[str, tuple[int, int]]  # shapes of fast weights and of what their optimizer carries, by name


def write_file(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Raises `OSError`, with the path in it, where the disk is full; what was there before stays."""
    private_directory(path.parent)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # by a save of this very file that was killed
        remove_left_over(left)
    write_sealed(path, tensors, {TEXT: json.dumps(header)})


def read_file(path: Path, device: torch.device) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors, as they were written but not yet compared with any model.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or holds something else.
    """
    tensors, texts = read_sealed(path, str(device))
    try:
        header = parsed(texts.get(TEXT, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path} has a header that cannot be read: {error}. Take another copy.") from error
    found = header.get("format") if isinstance(header, dict) else header
    if not is_integer(found) or found != CACHE_FORMAT:
        raise CheckpointError(f"{path} is no TTTCache of format {CACHE_FORMAT}: it says {str(found)[:80]}.")
    return header, tensors


def parts_of(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors called `name|part`, by part."""
    prefix = f"{name}|"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def configuration(path: Path, header: dict[str, Any]) -> TTTConfig:
    """The configuration that a file names. Raises `CheckpointError` where that is none."""
    try:
        return TTTConfig.from_dict(header["ttt"])
    except NotRegisteredError as error:
        raise CheckpointError(f"{path} cannot be read by this process: {error}") from error
    except (ConfigError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} names no configuration: {error}. Take another copy.") from error


def check_contents(path: Path, header: dict[str, Any], tensors: dict[str, Tensor], expected: Expected) -> None:
    """Raise `CheckpointError` unless this is what a cache of that model may hold."""
    own, before = dict(header), parts_of(tensors, "turn")
    turn = own.pop("turn", None)
    if turn is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("turn|")}
    for wrong in chain(
        _faults(own, tensors, expected), () if turn is None else _turn_faults(turn, before, own, expected)
    ):
        raise CheckpointError(f"{path} cannot be a conversation of this model: {wrong}. Take another copy.")


# In the file an index is called a rank, as earlier versions wrote it.
# Every check below yields what is wrong; the first one is reported, so a check may build on those before it.


def _faults(header: dict[str, Any], tensors: dict[str, Tensor], expected: Expected) -> Iterator[str]:
    yield from _header_faults(header)
    rows = None if "ranks_seen" not in tensors else tensors["ranks_seen"].numel()
    if rows is None:
        if tensors or header["counts"] or header["losses"] or header["pending_lengths"] or header["anchors"]:
            yield "it holds a state and no `ranks_seen`"
        yield from _text_faults(header["text"], [], None, expected)
        return
    yield from _row_faults(header, tensors["ranks_seen"], rows)
    shapes = _shapes(header, tensors, rows, expected)
    if header["tensors"] != sorted(tensors) or set(tensors) != set(shapes):
        odd = sorted(set(tensors) ^ set(shapes)) or header["tensors"]
        yield f"it lacks or adds the tensors {str(odd)[:200]}"
    for name, (shape, kind) in shapes.items():
        found = tensors[name]
        if tuple(found.shape) != shape or not kind(found.dtype):
            yield f"{name} is {found.dtype} of shape {tuple(found.shape)}, expected shape {shape}"
    for name, finite in zip(tensors, side_by_side(_is_finite, tensors.values())):
        if not finite:
            yield f"{name} holds numbers that are not finite"
    yield from _range_faults(header, tensors, expected)
    yield from _index_faults(header, tensors, expected)
    yield from _text_faults(header["text"], header["counts"], tensors.get("digest"), expected)


def _turn_faults(turn: Any, tensors: dict[str, Tensor], now: dict[str, Any], expected: Expected) -> Iterator[str]:
    """Of the turn under way, with the tensors of the cache before it. now: the header of the whole."""
    if not isinstance(turn, dict) or set(turn) != {"before", "rows", "opened", "spans"}:
        yield f"its turn is {str(turn)[:80]}, which cannot be"
    if not isinstance(turn["before"], dict) or "turn" in turn["before"]:
        yield "its turn comes after no cache"
    yield from _faults(turn["before"], tensors, expected)
    before, rows, opened = turn["before"]["counts"], turn["rows"], turn["opened"]
    count = len(now["counts"])
    if not _is_list(rows, count, lambda row: _is_count(row) and row < len(before)):
        yield f"its turn goes on with the rows {str(rows)[:80]}, which cannot be"
    if not _is_list(opened, count, lambda value: isinstance(value, bool)):
        yield f"its turn was opened in {str(opened)[:80]}, which cannot be"
    spans = turn["spans"]
    if not isinstance(spans, list) or not all(_is_span(span, count, expected) for span in spans):
        yield f"its turn holds {str(spans)[:80]}, which cannot be"
    read = [before[row] + sum(len(span["ids"][number]) for span in spans) for number, row in enumerate(rows)]
    if read != now["counts"]:
        yield "its turn and its counts of tokens contradict each other"


def _is_list(values: object, length: int, valid: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and len(values) == length and all(map(valid, values))


def _is_span(span: object, rows: int, expected: Expected) -> bool:
    if not isinstance(span, dict) or set(span) != {"ids", "positions", "learn", "remembers"}:
        return False
    ids, positions = span["ids"], span["positions"]
    if not all(isinstance(span[name], bool) for name in ("learn", "remembers")):
        return False
    if not _is_list(
        ids, rows, lambda row: isinstance(row, list) and all(_below(token, expected.vocabulary) for token in row)
    ):
        return False
    if positions is None:
        return True
    return _is_list(
        positions, rows, lambda row: isinstance(row, list) and all(_below(place, expected.positions) for place in row)
    ) and list(map(len, positions)) == list(map(len, ids))


def _below(value: object, bound: int) -> bool:
    return _is_count(value) and value < bound  # type: ignore[operator]


def _header_faults(header: dict[str, Any]) -> Iterator[str]:
    lists: dict[str, Callable[[Any], bool]] = {
        "losses": lambda row: isinstance(row, list) and all(map(_is_loss, row)),
        "counts": _is_count,
        "ahead": _is_count,
        "compared": lambda name: name in COMPARED,
        "anchors": _is_count,
        "pending_lengths": _is_count,
        "tensors": lambda name: isinstance(name, str),
        "text": lambda row: isinstance(row, list) and all(map(_is_count, row)),
    }
    named = {"format", "base", "ttt", "columns", "uniform", "padded", *lists}
    if set(header) not in (named, named - {"ahead", "compared"}):
        yield f"its header lacks or adds {sorted(set(header) ^ named)}"
    if not _is_count(header["columns"]):
        yield f"columns={str(header['columns'])[:80]!r}, expected a number of tokens"
    for name in ("uniform", "padded"):
        if not isinstance(header[name], bool):
            yield f"{name}={str(header[name])[:80]!r}, expected true or false"
    for name, valid in lists.items():
        if name not in header:
            continue
        values = header[name]
        if values is None and name in ("anchors", "pending_lengths", "text"):
            continue
        if not isinstance(values, list) or not all(map(valid, values)):
            yield f"its {name!r} are {str(values)[:80]}, which cannot be"


def _row_faults(header: dict[str, Any], seen: Tensor, rows: int) -> Iterator[str]:
    if seen.dtype != torch.long or seen.ndim != 1 or not rows:
        yield f"ranks_seen is {seen.dtype} of shape {tuple(seen.shape)}, expected one int64 for each row"
    for name in ("counts", "losses", "anchors", "pending_lengths", "ahead"):
        values = header.get(name)
        if (values is None and name == "pending_lengths") or name not in header:
            continue
        if values is None or len(values) != rows:
            yield f"its {name!r} are for {0 if values is None else len(values)} rows, its tensors for {rows}"
    counts = header["counts"]
    if seen.tolist() != counts:
        yield "its counts of tokens contradict each other"
    if header["columns"] < max(counts):
        yield f"it counts {max(counts)} tokens in {header['columns']} columns"
    if any(anchor > count for anchor, count in zip(header["anchors"], counts)):
        yield "its sinks stand behind the last token"
    if header["uniform"] and len(set(counts)) > 1:
        yield "its rows are called alike and are of different lengths"


Shape = tuple[tuple[int, ...], Callable[[torch.dtype], bool]]


def _shapes(header: dict[str, Any], tensors: dict[str, Tensor], rows: int, expected: Expected) -> dict[str, Shape]:
    """Every tensor that there should be, with its shape and kind."""
    ttt = expected.ttt
    shapes: dict[str, Shape] = {"ranks_seen": ((rows,), _is_long), "sink_ids": ((rows, ttt.sink_tokens), _is_long)}
    kept = [tensors.get(f"ranks|{index}") for index in range(len(expected.groups))]
    lengths = [0 if indices is None or not indices.ndim else indices.shape[-1] for indices in kept]
    if any(header["counts"]):
        for index, length in enumerate(lengths):
            shapes[f"ranks|{index}"] = ((rows, length), _is_long)
        for index, (sizes, group) in enumerate(zip(expected.kept, expected.group_of)):
            if sizes is not None:
                for name, (heads, dim) in zip(("keys", "values"), sizes):
                    shapes[f"{name}|{index}"] = ((rows, heads, lengths[group], dim), _is_float)
    compared = header.get("compared", ())
    shapes |= {name: ((rows, *rest), _is_long) for name, rest in zip(COMPARED, ((2,), ())) if name in compared}
    if "held_ids" in tensors and "ahead" in header:
        columns = tensors["held_ids"].shape[-1] if tensors["held_ids"].ndim else 0
        shapes |= {name: ((rows, columns), kind) for name, kind in zip(HELD_TENSORS, (_is_long, _is_bool))}
    if header["pending_lengths"] is not None:
        for name, kind in zip(PENDING_TENSORS, (_is_long, _is_long, _is_bool)):
            shapes[f"pending|{name}"] = ((rows, ttt.chunk_size), kind)
    for name in GATE_STATES if header["pending_lengths"] is not None else GATE_STATES[:1]:
        for part, (shape, dtype) in GateState.expected(parts_of(tensors, name), rows, expected.width).items():
            shapes[f"{name}|{part}"] = (shape, partial(eq, dtype))
    if "fast|steps" in tensors:
        shapes["fast|steps"] = ((rows,), _is_long)
        shapes |= {f"fast|{name}": ((rows, *shape), _is_wide) for name, shape in expected.fast.items()}
    return shapes


def _range_faults(header: dict[str, Any], tensors: dict[str, Tensor], expected: Expected) -> Iterator[str]:
    counts = tensors["ranks_seen"]
    bounds: dict[str, int | Tensor] = {
        "sink_ids": expected.vocabulary,
        "held_ids": expected.vocabulary,
        "pending|ids": expected.vocabulary,
        "pending|positions": expected.positions,
        "fast|steps": counts + 1,
        "topic|seen": counts + 1,
        "pending_topic|seen": counts + 1,
    }
    for name, bound in bounds.items():
        if name in tensors and not bool(((tensors[name] >= 0) & (tensors[name] < bound)).all()):
            yield f"{name} holds numbers out of range"
    for name in GATE_STATES:
        tail = tensors.get(f"{name}|tail")
        if tail is not None and not bool(((tail >= -1) & (tail < expected.vocabulary)).all()):
            yield f"{name}|tail holds numbers out of range"
    for length, count in zip(header["pending_lengths"] or (), header["counts"]):
        if length > min(expected.ttt.chunk_size, count):
            yield f"{length} tokens wait for a chunk of {expected.ttt.chunk_size}, after {count} tokens"
    if "held_ids" in tensors and tensors["held_ids"].shape[1] > header["columns"]:
        yield f"{tensors['held_ids'].shape[1]} tokens are held of {header['columns']} columns"
    if "marks" in tensors:
        real, numbers = tensors["marks"].unbind(1)
        least, most = real * (real - 1) // 2, real * (2 * header["columns"] - real - 1) // 2
        if not torch.equal(real + torch.tensor(header["ahead"], device=real.device), counts):
            yield "its columns and its counts of tokens contradict each other"
        if bool(((numbers < least) | (numbers > most)).any()):
            yield "marks holds numbers out of range"
    if expected.ttt.inner_optimizer == "adam":
        for name, tensor in tensors.items():
            if name.startswith("fast|") and name.endswith("|v") and tensor.numel() and bool(tensor.min() < 0):
                yield f"{name} holds negative mean squares"


def _index_faults(header: dict[str, Any], tensors: dict[str, Tensor], expected: Expected) -> Iterator[str]:
    """Of the tokens that are kept: each once, none unread, and all that the next query reaches back to."""
    seen = tensors["ranks_seen"][:, None]
    waiting = torch.tensor(header["pending_lengths"] or [0] * len(seen), device=seen.device)[:, None]
    for index, group in enumerate(expected.groups):
        indices = tensors.get(f"ranks|{index}")
        if indices is None:
            continue
        ordered = indices.sort(1).values
        again = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)
        if bool(((indices < -1) | (indices >= seen)).any()) or bool(again.any()):
            yield f"ranks|{index} names tokens that were not read, or one twice"
        if bool((indices < 0).any()) and (header["uniform"] or not header["padded"]):
            yield f"ranks|{index} has padding where its rows are said to have none"
        if header["uniform"] and not bool((indices == indices[:1]).all()):
            yield f"ranks|{index} differs between rows that are called alike"
        # Rows of different lengths are kept as wide as the widest, beside which a chunk has room.
        if group.capacity is not None and indices.shape[1] > group.capacity + expected.ttt.chunk_size:
            yield f"ranks|{index} keeps {indices.shape[1]} tokens, where {group.capacity} have room"
        oldest = torch.zeros_like(seen) if group.window is None else (seen - waiting - group.window + 1).clamp_min(0)
        sinks = seen.clamp_max(group.sinks)
        missing = (((indices >= oldest).sum(1, keepdim=True) != seen - oldest)
                   | (((indices >= 0) & (indices < sinks)).sum(1, keepdim=True) != sinks))  # fmt: skip
        if bool(missing.any()):
            yield f"ranks|{index} lacks tokens that are still attended to"


def _text_faults(
    text: list[list[int]] | None, counts: list[int], digests: Tensor | None, expected: Expected
) -> Iterator[str]:
    if text is not None and (text or any(counts)) and [len(row) for row in text] != counts:
        yield "its text is not as long as what was read"
    if text and any(token >= expected.vocabulary for row in text for token in row):
        yield "its text holds ids that are not in the vocabulary"
    for row, digest in zip(text or (), () if digests is None else digests.tolist()):
        ids = torch.tensor([row], dtype=torch.long, device="cpu")
        if of_text(ids, torch.ones_like(ids, dtype=torch.bool)).item() != digest:
            yield "its text is not what was read"


def _is_loss(value: object) -> bool:
    """A mean of what is at least 0; NaN where a chunk's logits were none."""
    return is_number(value) and not value < 0 and value != inf  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return is_integer(value) and 0 <= value < LARGEST_POSITION  # type: ignore[operator]


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    # A sum is one pass without a copy; it may overflow where no number does.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _is_long(dtype: torch.dtype) -> bool:
    return dtype == torch.long


def _is_bool(dtype: torch.dtype) -> bool:
    return dtype == torch.bool


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point


def _is_wide(dtype: torch.dtype) -> bool:
    return dtype in (torch.float32, torch.float64)
