"""Loss by position: what updates are worth, and where in a sequence. B batch rows, T tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..inner.inner_loop import next_token_losses
from ..streaming.reading import Settings, read
from ..streaming.tokens import align
from .gradients import pieces, stand_in

QUARTERS = 4
Reduce = Callable[[Tensor], Tensor]  # sums a tensor over processes
Most = Callable[[int], int]  # the largest of a number over processes that share the weights; here of one


@torch.no_grad()
def chunk_losses(model: Any, ids: Tensor, mask: Tensor | None, learn: bool) -> Tensor:
    """(B, chunks) nats per token of every whole chunk, before its update; NaN where a row has ended."""
    cache, losses = model.passing_cache(), []
    for piece in pieces(align(ids, mask, None), model.ttt.chunk_size):
        (segment,) = read(model, cache, piece, Settings(learn))
        real = torch.tensor([count > 0 for count in piece.counts], device=ids.device)
        losses.append(torch.where(real, next_token_losses(segment.output.logits, piece.ids).mean(1), torch.nan))
    return torch.stack(losses, 1)


def by_position(
    model: Any, batches: Iterable[dict[str, Tensor]], learn: bool, reduce: Reduce, most: Most = int
) -> tuple[dict, int]:
    """Mean losses by name, in all and by quarter of a row's chunks, and the number of rows, of every process."""
    sums, rows = torch.zeros(QUARTERS, 2, dtype=torch.float64, device=model.device), 0  # loss and chunks, by quarter
    for found in _in_step(model, batches, learn, most):
        for row in found:
            losses = row[~row.isnan()].double()
            quarter = torch.arange(len(losses), device=losses.device) * QUARTERS // len(losses)
            sums.index_add_(0, quarter, torch.stack([losses, torch.ones_like(losses)], 1))
            rows += 1
    sums, all_rows = reduce(sums), int(reduce(torch.tensor(rows, device=sums.device)))
    total = sums.sum(0)
    named = {"loss": (total[0] / total[1]).item()}
    for index, (loss, count) in enumerate(sums.tolist()):
        if count:  # short sequences have fewer chunks than quarters
            named[f"loss_q{index + 1}"] = loss / count
    return named, all_rows


@torch.no_grad()
def _in_step(model: Any, batches: Iterable[dict[str, Tensor]], learn: bool, most: Most) -> Iterator[Tensor]:
    """The losses of each batch; processes that share the weights read as many chunks as the one with the most."""
    remaining = iter(batches)
    while True:
        batch = next(remaining, None)
        own = 0 if batch is None else int(batch["attention_mask"].sum(1).max()) // model.ttt.chunk_size
        longest = most(own)
        if not longest:
            return
        losses = None if batch is None else chunk_losses(model, batch["input_ids"], batch["attention_mask"], learn)
        for _ in range(longest - own):
            stand_in(model, Settings(learn))
        if losses is not None:
            yield losses
