"""One call of a converted model: check, align, read, collect.

- `check`: raises unless its inputs can be read and go with what the cache has read (`inputs.py`).
- `CheckedInputs.align`: padding moves behind each row's real tokens; those are what there is to read.
- `Call.read`: reads them, one segment after another (`reading.py`), and tells the cache how far the call is.
- `Collector`: puts the logits of the segments back into the columns that their tokens came from.

It knows a model only as a `Decoder`. B batch rows, T tokens, S tokens that are held, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from ..inner.inner_loop import IGNORED
from ..inner.learning import Decoder
from . import inputs, reading
from .cache import TTTCache
from .reading import Segment, Settings
from .state import Held
from .tokens import Tokens, align

LAST = "last_hidden_state"  # what a backbone puts out, by transformers' name


@dataclass(frozen=True)
class CheckedInputs:
    """The inputs of a call, checked."""

    ids: Tensor  # (B, T) int64
    mask: Tensor | None  # (B, past + T) or (B, T) bool, None where all are real
    positions: Tensor | None  # (B or 1, T)
    ended: Tensor | None  # (B, T) bool: what `generate` writes into rows after their last word

    @property
    def new(self) -> Tensor | None:
        """The mask of the new tokens, (B, T)."""
        return None if self.mask is None else self.mask[:, -self.ids.shape[1] :]

    def align(self, cache: TTTCache, learn: bool) -> Call:
        """The call that reads this on top of `cache`. Raises `InputError` where there is nothing to read."""
        rows, width = self.ids.shape
        real = self.new
        if self.ended is not None:
            real = ~self.ended if real is None else real & ~self.ended
        tokens = align(self.ids, real, self.positions, cache.ahead)
        inputs.check_real(max(tokens.counts))
        late = inputs.late_tokens(cache, self.mask, width)
        together = late is None and tokens.order is None and (width == 1 or cache.in_step)
        return Call(
            tokens,
            real,
            width,
            before=cache.columns,
            late=late,
            late_positions=None if late is None else inputs.late_positions(self.positions, late, self.new),
            held=inputs.held_after(cache, self.ids, self.ended),
            together=together,
            whole=together and max(tokens.counts) <= min(reading.room_left(cache, rows, learn)),
        )


def check(
    cache: TTTCache,
    ids: Tensor | None,
    mask: Tensor | None,
    positions: Tensor | None,
    ended: Tensor | None,
    learn_from: str | None,
    vocabulary: int,
    kwargs: dict[str, Any],
) -> CheckedInputs:
    """Raises `InputError`. Takes out of `kwargs` what the family's forward must not be handed."""
    ids = inputs.checked_ids(ids, kwargs, vocabulary, begins=cache.rows is None)
    mask = inputs.checked_mask(mask, ids, cache)
    new = None if mask is None else mask[:, -ids.shape[1] :]
    positions = inputs.text_positions(inputs.positions_of(positions, kwargs, ids), new)
    inputs.check_positions(positions, ids)
    inputs.check_learn_from(learn_from)
    return CheckedInputs(ids, mask, positions, ended)


@dataclass(frozen=True)
class Call:
    """The tokens of a call, aligned, and the columns that they came in."""

    tokens: Tokens
    real: Tensor | None  # (B, T) bool: which columns are real, None if all are
    width: int  # T
    before: int  # columns that were handed in before it
    late: Tensor | None  # (B, S) bool: held tokens that turned out to be real, None if there are none
    late_positions: Tensor | None  # (B, S)
    held: Held | None  # what then waits for a mask to say whether it is real
    together: bool  # whether every segment holds the same columns of all rows
    whole: bool  # whether there is one segment

    @property
    def counts(self) -> list[int]:
        """Tokens to read, by row."""
        if self.late is None:
            return self.tokens.counts
        return [count + late for count, late in zip(self.tokens.counts, self.late.sum(1).tolist())]

    def read(self, decoder: Decoder, cache: TTTCache, settings: Settings) -> Iterator[Segment]:
        """Read the tokens on top of `cache`, one segment at a time."""
        if self.late is not None:
            reading.read_late(decoder, cache, self.late, self.late_positions, settings)
        yield from reading.read(decoder, cache, self.tokens, settings, record=self._hand_in)

    def _hand_in(self, cache: TTTCache, read: list[int]) -> None:
        """Tell `cache` how far the call is when `read` of the tokens have been read, by row.

        Columns count as handed in up to the first that any row has still to read. Where a call is interrupted, rows
        may have read beyond, and the next one passes over that.
        """
        tokens = self.tokens
        nexts = [self.width] * len(read)
        unfinished = [row for row, (done, count) in enumerate(zip(read, tokens.counts)) if done < count]
        for row in unfinished:
            nexts[row] = read[row] if tokens.order is None else int(tokens.order[row, read[row]])
        first = min(nexts)
        beyond = [column - first for column in nexts]
        if self.real is not None and any(beyond):
            beyond = [int(self.real[row, first:column].sum()) for row, column in enumerate(nexts)]
        cache.hand_in(self.real, self.before, first, beyond if unfinished else [0] * len(read))
        if not unfinished:
            cache.held = self.held


class Collector:
    """Puts the logits of segments back into the columns their tokens came from."""

    def __init__(self, call: Call, logits_to_keep: int | Tensor) -> None:
        self.call, self.keep = call, logits_to_keep
        self.logits: list[Tensor] = []
        self.hidden: list[tuple[Tensor, ...]] = []
        self.last: Any = None
        self.full: Tensor | None = None

    def add(self, segment: Segment) -> None:
        output, self.last = segment.output, segment.output
        if output.get("hidden_states") is not None:
            self.hidden.append(output.hidden_states)
        logits = output.get(LAST, output.logits)
        if self.call.together:
            self._append(logits)
        else:
            self._scatter(logits, segment)

    def _append(self, logits: Tensor) -> None:
        self.logits.append(logits)
        if isinstance(self.keep, int) and self.keep > 0:
            while len(self.logits) > 1 and sum(part.shape[1] for part in self.logits[1:]) >= self.keep:
                self.logits.pop(0)

    def _scatter(self, logits: Tensor, segment: Segment) -> None:
        if self.full is None:
            self.full = logits.new_zeros(logits.shape[0], self.call.width, logits.shape[-1])
        for row, (start, taken) in enumerate(zip(segment.starts, segment.taken)):
            order = self.call.tokens.order
            columns = slice(start, start + taken) if order is None else order[row, start : start + taken]
            self.full[row, columns] = logits[row, :taken]

    def output(self, cache: TTTCache | None) -> Any:
        if self.full is not None:
            logits = self.full
        else:
            # A single piece is handed on as it is: logits are the largest tensor there is.
            logits = self.logits[0] if len(self.logits) == 1 else torch.cat(self.logits, dim=1)
        logits = columns_kept(logits, self.keep)
        fields = {name: value for name, value in self.last.items() if name not in ("past_key_values", "loss")}
        fields["logits"] = logits
        if self.hidden:
            fields["hidden_states"] = tuple(torch.cat(parts, dim=-2) for parts in zip(*self.hidden))
        if cache is not None:
            fields["past_key_values"] = cache
        if LAST in fields:  # the backbone was called
            rest = {name: fields.get(name) for name in ("past_key_values", "hidden_states", "attentions")}
            return BaseModelOutputWithPast(last_hidden_state=logits, **rest)
        return type(self.last)(**fields)


def columns_kept(logits: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """The columns of logits (B, T, V) that were asked for: the last few, all for 0, or those of an index."""
    if isinstance(logits_to_keep, Tensor):
        return logits[:, logits_to_keep]
    return logits[:, -logits_to_keep:] if logits_to_keep > 0 else logits


def labels_after_padding(labels: Tensor, mask: Tensor | None) -> tuple[Tensor, float]:
    """The labels of a padded batch, and by how much the mean over the tokens that were counted must grow.

    Nothing predicts the first token after padding, though whoever counts tokens by their labels has counted it.
    mask: (B, T) bool.
    """
    if mask is None:
        return labels, 1.0
    predicted = torch.cat([labels[:, :1], labels[:, 1:].masked_fill(~mask[:, :-1], IGNORED)], dim=1)
    counted, left = ((some[:, 1:] != IGNORED).sum() for some in (labels, predicted))
    return predicted, float(counted / left) if bool(left) else 1.0
