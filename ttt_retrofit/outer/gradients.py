"""The outer gradient of a batch of sequences: of the mean over chunks of the loss that each had before its update.

All chunks have as many targets, so this is the mean over target tokens. A batch may be a part of a step of the outer
optimizer, beside others that are accumulated or on other devices: the mean is then over the chunks of all of them.

What a later loss owes to an earlier update can be followed exactly, in the last chunks only, or not at all:

- `first_order`: the directions of the inner steps, and past keys, are constants. The gradient that steps the fast
  weights is then the outer gradient of their start as well: it costs one read.
- `truncated`: exact through the last k chunks of every row, first order in those before.
- `exact`: through every update and all keys.
- `none`: no updates at all; plain fine-tuning of the same parameters, the control to compare with.

A sweep forwards reads as in use, keeping what stood before each chunk that will be gone back through; a sweep backwards
holds the derivatives of what is already behind it (`chunks.py`). No graph spans more than one chunk.

Processes that share the weights of a model (`sharding.py`) forward and go back equally often. One whose rows have fewer
chunks than another's reads a stand-in, a chunk of no meaning, in the place of each that it lacks.
B batch rows, T tokens, C chunk.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import InputError
from ..inner.inner_loop import next_token_losses
from ..inner.learning import InnerStep, Outer, fresh
from ..streaming.cache import TTTCache
from ..streaming.reading import Settings, read
from ..streaming.tokens import Tokens, align
from .choices import Gradients
from .chunks import (
    Adjoint,
    Chunk,
    ChunkBackward,
    Cotangent,
    Keys,
    by_differences,
    by_double_backward,
    open_past,
    through_step,
)
from .parameters import GradientSums, OuterParameters
from .replay import recording
from .sharding import is_sharded, kept_whole


@dataclass(frozen=True)
class BatchGradients:
    """Losses and outer gradients of one batch."""

    losses: Tensor  # (B, chunks), nats per token before each update; NaN where a row has ended
    gradients: dict[torch.nn.Parameter, Tensor]  # of the sum over all chunks of the batch, each with the weight given
    cache: TTTCache  # as the read left it


def outer_gradients(
    model: Any,
    outer: OuterParameters,
    ids: Tensor,
    mask: Tensor | None,
    gradients: Gradients,
    truncate_chunks: int = 1,
    rematerialise: bool = False,
    weight: float | None = None,
    longest: int | None = None,
) -> BatchGradients:
    """Loss and outer gradient of a batch, of which no parameter's `.grad` is touched.

    Parameters
    ----------
    model : a converted model, not in training mode: dropout would differ between the readings of a chunk.
    ids, mask : (B, T) token ids, and nonzero for real ones. Real tokens after a row's last whole chunk are not read.
    truncate_chunks : k of `truncated`.
    rematerialise : keep less and compute it again: for exact gradients, the state at every √N-th of N chunks, each
        group of which is read a second time; for `none`, no activations.
    weight : of each chunk in the loss that gradients are of: one over the chunks of all batches of a step. By default
        one over those of this batch.
    longest : chunks of the longest row in all processes that share the weights. By default of this batch.

    Raises
    ------
    InputError
        When no row holds a whole chunk.
    """
    tokens = align(ids, mask, None)
    by_row = whole_chunks(tokens, model.ttt.chunk_size)
    chunks = max(by_row)
    if not chunks:
        raise InputError(
            f"The longest of these sequences has {max(tokens.counts)} tokens, and a chunk {model.ttt.chunk_size}. "
            "The outer loss is a mean over whole chunks: give longer sequences."
        )
    weight = 1 / sum(by_row) if weight is None else weight
    longest = longest or chunks
    if gradients == "none":
        return _without_updates(model, outer, tokens, weight, rematerialise, longest)
    exact = {"exact": longest, "truncated": min(truncate_chunks, longest), "first_order": 0}[gradients]
    return through_updates(model, outer, tokens, exact, _second_order(model), rematerialise, weight, longest)


@torch.no_grad()
def through_updates(
    model: Any,
    outer: OuterParameters,
    tokens: Tokens,
    exact: int,
    backward: ChunkBackward,
    rematerialise: bool = False,
    weight: float | None = None,
    longest: int | None = None,
) -> BatchGradients:
    """The outer gradient, exact through the last `exact` chunks of every row and first order before them."""
    by_row = whole_chunks(tokens, model.ttt.chunk_size)
    weight = 1 / sum(by_row) if weight is None else weight
    longest = longest or max(by_row)
    truncated = 0 < exact < longest
    own = list(pieces(tokens, model.ttt.chunk_size, together_at="end" if truncated else "start"))
    lacking: list[Tokens | None] = [None] * (longest - len(own))
    chunks = [*lacking, *own] if truncated else [*own, *lacking]
    sums = GradientSums(outer)
    cache = model.passing_cache()
    cache.prepare(len(tokens.counts), tokens.ids.device)
    cache.fast = fresh(model, len(tokens.counts), Outer())
    for piece in chunks[: len(chunks) - exact]:
        noted = partial(sums.first_order, weight=weight)
        _read(model, cache, piece, Outer(observe=noted, along=outer.direct, folded=outer.folded))
    followed = chunks[len(chunks) - exact :]
    size = math.ceil(math.sqrt(exact)) if rematerialise else max(exact, 1)
    groups = [followed[start : start + size] for start in range(0, exact, size)]
    begun = []
    for group in groups[:-1]:
        begun.append(copy.deepcopy(cache))
        for piece in group:
            _read(model, cache, piece, Outer(anew=True))
    adjoint, first = None, cache.fast
    for group, start in reversed(list(zip(groups, [*begun, cache]))):
        first = copy.deepcopy(start.fast)
        kept = _forwards(model, outer, start, group)
        with kept_whole(model, outer) if backward is by_double_backward else nullcontext():
            adjoint = _back(model, kept, weight, backward, sums, adjoint)
    if adjoint is not None:
        at_first = {n: {key: adjoint.fast[f"{n}|{key}"] for key in s.weights} for n, s in first.sites.items()}
        sums.at_start(at_first, stored=True)
        sums.along_steps(first, at_first)
    return BatchGradients(cache.loss_by_chunk, sums.by_parameter, cache)


def _forwards(
    model: Any, outer: OuterParameters, cache: TTTCache, group: Sequence[Tokens | None]
) -> list[Chunk | None]:
    """Read chunks as in use, keeping what going back through them takes."""
    kept, taught = list[Chunk | None](), list[InnerStep]()
    for piece in group:
        if piece is None:
            _read(model, cache, None, Outer(along=outer.direct, folded=outer.folded))
            kept.append(None)
            continue
        before = copy.deepcopy(cache)
        along = (*outer.direct, *open_past(cache, outer.lowest))
        with recording(outer.below) as below:
            _read(model, cache, piece, Outer(observe=taught.append, along=along, folded=outer.folded))
        kept.append(Chunk(before, piece, taught.pop(), below))
    return kept


def _back(
    model: Any,
    kept: list[Chunk | None],
    weight: float,
    backward: ChunkBackward,
    sums: GradientSums,
    adjoint: Adjoint | None,
) -> Adjoint | None:
    """Go back through chunks, which are let go one by one, from the last to what stood before the first."""
    while kept:
        chunk = kept.pop()
        if chunk is None:
            stand_in(model, Settings(learn=True, outer=Outer(along=sums.outer.direct, folded=sums.outer.folded)))
            continue
        cotangent: Cotangent | None = None
        state = chunk.before.fast.tensors()
        total = {key: torch.zeros_like(tensor) for key, tensor in state.items() if key != "steps"}
        keys: Keys = [None] * len(chunk.before.layers)
        if adjoint is not None:
            cotangent, total = through_step(model, chunk, adjoint, sums)
            keys = adjoint.keys
        found = backward(model, sums.outer, chunk, weight, cotangent, keys)
        sums.at_start(found.fast, stored=False)
        sums.add_direct(found.direct)
        for name, by_name in found.fast.items():
            for key, gradient in by_name.items():
                total[f"{name}|{key}"] = total[f"{name}|{key}"] + gradient
        adjoint = Adjoint(total, found.keys)
    return adjoint


def _second_order(model: Any) -> ChunkBackward:
    """Differences where they are exact enough, which is also where they are cheap."""
    narrow = (torch.float16, torch.bfloat16)
    computes = {vars(module).get("compute_dtype") for module in model.modules()}  # of 4-bit projections
    in_16_bits = model.dtype in narrow or torch.is_autocast_enabled(model.device.type) or computes & set(narrow)
    backend: Any = torch.backends.cuda if model.device.type == "cuda" else torch.backends.mkldnn
    rounded = model.dtype == torch.float32 and backend.matmul.fp32_precision in ("tf32", "bf16")
    if in_16_bits or rounded:
        return by_double_backward
    return partial(by_differences, always=True) if is_sharded(model) else by_differences


def _without_updates(
    model: Any, outer: OuterParameters, tokens: Tokens, weight: float, rematerialise: bool, longest: int
) -> BatchGradients:
    cache, losses = model.passing_cache(), []
    settings = Settings(learn=False, outer=Outer(record=True, rematerialise=rematerialise))
    for piece in pieces(tokens, model.ttt.chunk_size):
        real = torch.tensor([count > 0 for count in piece.counts], device=tokens.ids.device)
        (segment,) = read(model, cache, piece, settings)
        with torch.enable_grad():
            by_row = next_token_losses(segment.output.logits, piece.ids).mean(1)
            losses.append(torch.where(real, by_row, torch.nan))
    by_chunk = torch.stack(losses, 1)  # (B, chunks)
    total = weight * by_chunk.nansum()
    for _ in range(longest - len(losses)):
        total = total + 0 * stand_in(model, settings)
    parameters = outer.all
    taken = torch.autograd.grad(total, parameters, allow_unused=True)
    sums = GradientSums(outer)
    for parameter, gradient in zip(parameters, taken):
        sums.add(parameter, gradient)
    return BatchGradients(by_chunk.detach(), sums.by_parameter, cache.detach_())


def whole_chunks(tokens: Tokens, size: int) -> list[int]:
    """How many there are, by row."""
    return [count // size for count in tokens.counts]


def pieces(tokens: Tokens, size: int, together_at: Literal["start", "end"] = "start") -> Iterator[Tokens]:
    """Whole chunks, one after the other, of rows that start, or end, together; (B, C) each.

    A row that has ended, or not begun, has a count of 0.
    """
    chunks = whole_chunks(tokens, size)
    longest = max(chunks)
    begins = [longest - count if together_at == "end" else 0 for count in chunks]  # the piece a row begins in
    columns = torch.arange(size, device=tokens.ids.device)
    for index in range(longest):
        counts = [size if begin <= index < begin + count else 0 for begin, count in zip(begins, chunks)]
        own = torch.tensor([max(index - begin, 0) for begin in begins], device=tokens.ids.device)
        yield Tokens(tokens.ids.gather(1, own[:, None] * size + columns), None, counts, None)


def stand_in(model: Any, settings: Settings) -> Tensor:
    """Read one chunk of no meaning, where another process that shares the weights reads one of its own; its loss."""
    ids = torch.zeros(1, model.ttt.chunk_size, dtype=torch.long, device=model.device)
    (segment,) = read(model, model.passing_cache(), Tokens(ids, None, [ids.shape[1]], None), settings)
    with torch.enable_grad():
        return next_token_losses(segment.output.logits, ids).sum()


def _read(model: Any, cache: TTTCache, piece: Tokens | None, outer: Outer) -> None:
    """Read a chunk, or a stand-in for none."""
    if piece is None:
        stand_in(model, Settings(learn=True, outer=replace(outer, observe=None)))
        return
    with torch.enable_grad():  # what is dropped from the window must not cut the rest off from its gradient
        for _ in read(model, cache, piece, Settings(learn=True, outer=outer)):
            pass
    cache.detach_()  # of keys that gradients were taken of
