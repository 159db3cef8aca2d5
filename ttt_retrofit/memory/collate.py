"""Stacks the entries of every row's memory into the `MemoryBatch` of one forward.

B rows, M entries of the row that has most, K keys, D model width, R ranks of all entries together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from .batch import MemoryBatch, Term
from .entry import Entry
from .gates import Background, Gates
from .memory import Memory
from .turns import opener_rows

# Cosines never reach these: the gate of a row without a memory stays shut.
NEVER_OPEN = (2.0, 3.0)
# And every cosine is above these: the gate of a memory without one stands open.
ALWAYS_OPEN = (-3.0, -2.0)


def collate(memories: Sequence[Memory | None], device: torch.device, dtype: torch.dtype) -> MemoryBatch | None:
    """What the rows' memories add, or None where no row has one. Equal memories in all rows are held once.

    Raises
    ------
    InputError
        When the gates of the memories are at different layers.
    """
    present = [memory for memory in memories if memory is not None and memory.entries]
    if not present:
        return None
    layers = sorted({memory.layer for memory in present})
    if len(layers) > 1:
        raise InputError(
            f"The memories of one batch have their gates at different layers: {layers}. Pass them in separate calls."
        )
    shared = all(memory is memories[0] for memory in memories)
    rows = [memories[0]] if shared else list(memories)
    banks = [() if memory is None else memory.entries for memory in rows]
    gates = gates_of(rows, device)
    paths = dict.fromkeys(path for bank in banks for entry in bank for path in entry.weights)
    return MemoryBatch(layers[0], gates, {path: _term(path, banks, device, dtype) for path in paths})


def gates_of(rows: Sequence[Memory | None], device: torch.device) -> Gates:
    """The gates of the rows' memories, of which one at least has an entry."""
    present = [memory for memory in rows if memory is not None and memory.entries]
    count = max(len(memory.entries) for memory in present)
    most = max(entry.gate.keys.shape[0] for memory in present for entry in memory.entries)
    width = present[0].background.centre.shape[0]
    keys = torch.zeros(len(rows), count, most, width, device="cpu")
    closed, opened = (torch.full((len(rows), count), value, device="cpu") for value in NEVER_OPEN)
    for row, memory in enumerate(rows):
        for index, entry in enumerate(() if memory is None else memory.entries):
            assert memory is not None
            keys[row, index, : entry.gate.keys.shape[0]] = entry.gate.keys.float()
            bounds = (entry.gate.closed, entry.gate.opened) if memory.config.gated else ALWAYS_OPEN
            closed[row, index], opened[row, index] = bounds
    # A row without a memory is given any background: its gates stay shut.
    backgrounds = [(present[0] if memory is None else memory).background for memory in rows]
    openers = opener_rows([() if memory is None else memory.opener for memory in rows], device)
    keys, closed, opened = (tensor.to(device) for tensor in (keys, closed, opened))
    return Gates(joined(backgrounds).to(device), keys, closed, opened, openers)


def joined(backgrounds: list[Background]) -> Background:
    """One for each row; of one and the same, only that."""
    if all(background is backgrounds[0] for background in backgrounds):
        backgrounds = backgrounds[:1]
    most = max(background.directions.shape[1] for background in backgrounds)
    missing = [most - background.directions.shape[1] for background in backgrounds]
    return Background(
        torch.stack([b.centre.float() for b in backgrounds]),
        torch.stack([F.pad(b.directions.float(), (0, n)) for b, n in zip(backgrounds, missing)]),
        torch.stack([F.pad(b.shrink.float(), (0, n)) for b, n in zip(backgrounds, missing)]),
    )


def _term(path: str, banks: list[tuple[Entry, ...]], device: torch.device, dtype: torch.dtype) -> Term:
    count = max(len(bank) for bank in banks)
    a, b, owner = [], [], []
    for index in range(count):
        held = [bank[index].weights.get(path, {}) if index < len(bank) else {} for bank in banks]
        ranks = max((weights["a"].shape[0] for weights in held if weights), default=0)
        if ranks:
            a.append(_stack([_padded(weights.get("a"), 0, ranks) for weights in held]))
            b.append(_stack([_padded(weights.get("b"), 1, ranks) for weights in held]))
            owner += [index] * ranks
    return Term(
        torch.cat(a, dim=1).to(device, dtype),
        torch.cat(b, dim=2).to(device, dtype),
        torch.tensor(owner, device=device),
    )


def _padded(matrix: Tensor | None, dim: int, ranks: int) -> Tensor | None:
    if matrix is None or matrix.shape[dim] == ranks:
        return matrix
    shape = list(matrix.shape)
    shape[dim] = ranks - shape[dim]
    return torch.cat([matrix, matrix.new_zeros(shape)], dim=dim)


def _stack(matrices: list[Tensor | None]) -> Tensor:
    """(B, ...) with zeros for the rows that have none."""
    like = next(matrix for matrix in matrices if matrix is not None)
    return torch.stack([torch.zeros_like(like) if matrix is None else matrix for matrix in matrices])
