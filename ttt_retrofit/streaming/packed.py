"""Packed rows: several documents one after another in a row, told apart by positions that begin anew.

Each is read by itself: a row's state begins anew with every document, as the attention of an unconverted model does.
B batch rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..memory import Memory
from .calls import LAST, kept

Spans = list[tuple[int, int]]  # first column and the one after the last, of each document of a row

# What collators pack rows with for kernels of variable length, beside positions or in their place.
BOUNDARIES = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


def positions_of(positions: Tensor | None, kwargs: dict[str, Any], ids: Tensor) -> Tensor | None:
    """The positions (B, T) of a call; where only boundaries of documents are given, those that follow from them.

    Takes the boundaries out of `kwargs`: no kernel here is handed them.
    """
    given = {name: kwargs.pop(name) for name in BOUNDARIES if kwargs.get(name) is not None}
    boundaries = given.get("cu_seq_lens_q")
    if positions is not None or boundaries is None:
        return positions
    if ids.shape[0] != 1 or int(boundaries[0]) != 0 or int(boundaries[-1]) != ids.shape[1]:
        raise InputError(
            f"cu_seq_lens_q is {boundaries.tolist()} for input_ids of shape {tuple(ids.shape)}; expected one row, with "
            f"boundaries from 0 to {ids.shape[1]}."
        )
    lengths = boundaries.diff().tolist()
    return torch.cat([torch.arange(length, device=ids.device) for length in lengths])[None]


def documents(positions: Tensor | None, rows: int, alone: bool) -> list[Spans] | None:
    """Where the documents of each row stand, or None where every row is a single one.

    alone: nothing is carried on from the call. Transformers then takes any gap between two positions for a boundary,
    otherwise only a step back is one.
    """
    if positions is None or positions.shape[1] < 2:
        return None
    step = positions.diff(dim=1)
    begins = (step != 1) if alone else (step <= 0)
    if not bool(begins.any()):
        return None
    length = positions.shape[1]
    found = []
    for row in begins.expand(rows, -1):
        edges = [0, *(row.nonzero()[:, 0] + 1).tolist(), length]
        found.append(list(itertools.pairwise(edges)))
    return found


def read_apart(
    forward: Callable[..., Any],
    ids: Tensor,
    positions: Tensor,
    spans: list[Spans],
    memories: Memory | Sequence[Memory | None] | None,
    logits_to_keep: int | Tensor,
    **rest: Any,
) -> Any:
    """The output of `forward` for rows of several documents: the first of every row together, then the second, ...

    Its cache is that of the last documents, where all rows have as many; otherwise there is none.
    """
    positions = positions.expand(ids.shape[0], -1)
    found: list[list[Tensor]] = [[] for _ in spans]
    output, name = None, "logits"
    most = max(map(len, spans))
    for number in range(most):
        rows = [row for row, own in enumerate(spans) if number < len(own)]
        cut = [slice(*spans[row][number]) for row in rows]
        width = max(part.stop - part.start for part in cut)
        given = {key: tensor.new_zeros(len(rows), width) for key, tensor in (("ids", ids), ("positions", positions))}
        real = torch.zeros(len(rows), width, dtype=torch.bool, device=ids.device)
        for index, (row, part) in enumerate(zip(rows, cut)):
            length = part.stop - part.start
            given["ids"][index, :length], given["positions"][index, :length] = ids[row, part], positions[row, part]
            real[index, :length] = True
        each = memories if memories is None or isinstance(memories, Memory) else [memories[row] for row in rows]
        whole = bool(real.all())
        output = forward(
            input_ids=given["ids"],
            attention_mask=None if whole else real,
            position_ids=given["positions"],
            memories=each,
            **rest,
        )
        name = LAST if LAST in output else "logits"
        for index, (row, part) in enumerate(zip(rows, cut)):
            found[row].append(output[name][index, : part.stop - part.start])
    assert output is not None
    fields = dict(output) | {name: kept(torch.stack([torch.cat(parts) for parts in found]), logits_to_keep)}
    cache = fields.pop("past_key_values", None)
    if cache is not None and all(len(own) == most for own in spans):
        cache.recount(ids.shape[1])
        cache.digest = None  # what was read are the last documents
        fields["past_key_values"] = cache
    return type(output)(**fields)
