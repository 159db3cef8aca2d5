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

from ..memory import Memory
from .call import LAST, CheckedInputs, columns_kept

Spans = list[tuple[int, int]]  # first column and the one after the last, of each document of a row


def documents(checked: CheckedInputs, alone: bool) -> list[Spans] | None:
    """Where the documents of each row stand, or None where every row is a single one, as under a mask.

    alone: nothing is carried on from the call. Transformers then takes any gap between two positions for a boundary,
    otherwise only a step back is one.
    """
    rows, length = checked.ids.shape
    positions = checked.positions
    if checked.mask is not None or positions is None or length < 2:
        return None
    step = positions.diff(dim=1)
    begins = (step != 1) if alone else (step <= 0)
    if not bool(begins.any()):
        return None
    found = []
    for row in begins.expand(rows, -1):
        edges = [0, *(row.nonzero()[:, 0] + 1).tolist(), length]
        found.append(list(itertools.pairwise(edges)))
    return found


def read_apart(
    forward: Callable[..., Any],
    checked: CheckedInputs,
    spans: list[Spans],
    memories: Memory | Sequence[Memory | None] | None,
    logits_to_keep: int | Tensor,
    **rest: Any,
) -> Any:
    """The output of `forward` for rows of several documents: the first of every row together, then the second, ...

    Its cache is that of the last documents, where all rows have as many; otherwise there is none.
    """
    assert checked.positions is not None
    ids, positions = checked.ids, checked.positions.expand(checked.ids.shape[0], -1)
    found: list[list[Tensor]] = [[] for _ in spans]
    output, name = None, "logits"
    most = max(map(len, spans))
    for number in range(most):
        rows = [row for row, own in enumerate(spans) if number < len(own)]
        cut = [slice(*spans[row][number]) for row in rows]
        width = max(part.stop - part.start for part in cut)
        padded = {key: tensor.new_zeros(len(rows), width) for key, tensor in (("ids", ids), ("positions", positions))}
        real = torch.zeros(len(rows), width, dtype=torch.bool, device=ids.device)
        for index, (row, part) in enumerate(zip(rows, cut)):
            length = part.stop - part.start
            padded["ids"][index, :length], padded["positions"][index, :length] = ids[row, part], positions[row, part]
            real[index, :length] = True
        each = memories if memories is None or isinstance(memories, Memory) else [memories[row] for row in rows]
        whole = bool(real.all())
        output = forward(
            input_ids=padded["ids"],
            attention_mask=None if whole else real,
            position_ids=padded["positions"],
            memories=each,
            **rest,
        )
        name = LAST if LAST in output else "logits"
        for index, (row, part) in enumerate(zip(rows, cut)):
            found[row].append(output[name][index, : part.stop - part.start])
    assert output is not None
    fields = dict(output) | {name: columns_kept(torch.stack([torch.cat(parts) for parts in found]), logits_to_keep)}
    cache = fields.pop("past_key_values", None)
    if cache is not None and all(len(own) == most for own in spans):
        cache.recount(ids.shape[1])
        cache.digest = None  # what was read are the last documents
        fields["past_key_values"] = cache
    return type(output)(**fields)
