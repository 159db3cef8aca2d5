"""`TTTCache`: all that a conversation carries: windowed keys and values, fast weights, the unfinished chunk.

Its size does not grow with the context. It travels as `past_key_values`, the one channel that every part of
transformers hands on. It knows nothing of models beyond the layout of their layers (`kv.py`).
B batch rows, C chunk.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..config import TTTConfig
from ..errors import InputError, UnsupportedModelError
from ..inner.fast_state import FastState
from ..inner.learning import warn_of_dropped
from ..util.devices import on_device
from ..util.display import Bare, Displayed, Rows, in_bytes, span
from .digest import carried_on
from .kv import LayerGroup, layout
from .ring import Ring, can_hold
from .saved_cache import SavedCache
from .state import Held, Log, Pending, RowState, Sinks
from .tokens import marks_of
from .turn import Turn


class TTTCache(Displayed, SavedCache):
    """The state of a batch of conversations under test-time training.

    Attributes
    ----------
    loss_by_chunk : (B, chunks) float32 tensor on the CPU
        Inner loss of every finished chunk, nats per token, taken before its update; NaN where a row has fewer chunks.
    tokens_seen : (B,) tensor
        Real tokens read so far, padding excluded.
    nbytes : int
        Size of everything carried from call to call, in bytes. Constant once the window is full.
    """

    is_croppable = False  # an update cannot be taken back
    is_compileable = False  # transformers' word for a cache that its own graphs can be made of
    ring: Ring | None = None  # where keys and values are while they are in one

    def __init__(self, config: PreTrainedConfig, ttt: TTTConfig, base: str) -> None:
        layers, groups, group_of = layout(config.get_text_config(decoder=True), ttt)
        super().__init__(layers, groups, group_of)
        self.ttt = ttt
        self.base = base  # fingerprint of the model it belongs to
        self.owner = ""  # the model itself, in memory: a fingerprint takes time, and changes when it is trained
        self.columns = 0  # tokens handed in so far, padding included: what `generate` counts
        self.marks: Tensor | None = None  # (B, 2): how many of these columns were real, and the sum of their numbers
        self.ahead: list[int] = []  # tokens by row that were read beyond them, where a call was interrupted
        self.held: Held | None = None  # the last of these columns, where some rows have not read theirs
        self.digest: Tensor | None = None  # (B,) of the tokens read so far; None in a file that does not tell
        self.next_index: Tensor | None = None  # (B,) of the token that comes next: the real tokens read so far
        self.counts: list[int] = []  # the same, where Python decides and a device must not be waited for
        self.sinks: Sinks | None = None
        self.uniform = True  # no row ever held padding: all rows keep the same columns
        self.pending: Pending | None = None
        self.gate_state: RowState | None = None  # of memories, once there were any
        self.turn: Turn[TTTCache] | None = None  # the one under way, where a memory acts in it
        self.fast = FastState()
        self._losses = Log([])
        self._text: Log | None = None

    @property
    def layers(self) -> list[Any]:
        """Keys and values by layer (`WindowedLayer`). Whoever asks for them takes them out of the ring."""
        self._unroll()
        return self._layers

    @layers.setter
    def layers(self, layers: list[Any]) -> None:
        self._layers = layers

    @property
    def groups(self) -> list[LayerGroup]:
        """Layers that keep the same tokens, and which tokens these are. Likewise."""
        self._unroll()
        return self._groups

    @groups.setter
    def groups(self, groups: list[LayerGroup]) -> None:
        self._groups = groups

    @property
    def steady(self) -> bool:
        """Whether a ring can hold keys and values: all rows are in step behind a full window, and no memory acts."""
        alike = self.rows is not None and self.uniform and not self.padded and self.in_step
        if not alike or self.turn is not None or self.gate_state is not None:
            return False
        return self.ring is not None or can_hold(self._groups, self.counts[0], self._waiting)

    def roll(self) -> Ring:
        """Put keys and values into a ring, for a cache that is `steady`."""
        if self.ring is None:
            with torch.no_grad():
                self.ring = Ring(self._layers, self._groups, self.group_of, self.counts[0], self._waiting)
            self._layers = [layer.empty() for layer in self._layers]
            self._groups = [group.empty() for group in self._groups]
        return self.ring

    def _unroll(self) -> None:
        if self.ring is None:
            return
        layers, groups = [layer.empty() for layer in self._layers], [group.empty() for group in self._groups]
        with torch.inference_mode(False), torch.no_grad():
            self.ring.unroll(layers, groups, self.counts[0], self._waiting)
        self.__dict__ = {**vars(self), "ring": None, "_layers": layers, "_groups": groups}

    @property
    def _waiting(self) -> int:
        """Tokens of the unfinished chunk, where rows are in step."""
        return self.pending.lengths[0] if self.pending else 0

    def _rows(self) -> Rows:
        if self.rows is None:
            return {"tokens": 0}
        held = next((layer for layer in self.layers if layer.is_initialized), None)
        losses = [of_row for of_row in self.losses if of_row]
        first, last = ([of_row[place] for of_row in losses] for place in (0, -1))
        return {
            "rows": self.rows if self.rows > 1 else None,
            "tokens": span(self.counts),
            "chunks": span([len(of_row) for of_row in self.losses]),
            "loss": Bare(f"{fmean(first):.3f} → {fmean(last):.3f}") if losses else None,
            "size": in_bytes(self.nbytes),
            "device": None if held is None else Bare(held.device),
            "dtype": None if held is None else Bare(held.dtype),
        }

    @property
    def losses(self) -> list[list[float]]:
        """The inner loss of every finished chunk, by row. Looking at it waits for the device."""
        losses = self._losses.rows()
        warn_of_dropped([len(of_row) for of_row in losses], self.fast)
        return losses

    def __deepcopy__(self, memo: dict[int, Any]) -> TTTCache:
        """A copy made in inference mode can be gone on from, too: tensors made in it could never be changed again."""
        made = memo[id(self)] = type(self).__new__(type(self))
        with torch.inference_mode(False):
            vars(made).update(copy.deepcopy(vars(self), memo))
        return made

    @property
    def loss_by_chunk(self) -> Tensor:
        by_row = self.losses
        longest = max((len(losses) for losses in by_row), default=0)
        return torch.tensor([losses + [math.nan] * (longest - len(losses)) for losses in by_row], device="cpu")

    def log_losses(self, rows: list[int], losses: Tensor) -> None:
        """losses: (R,) of the chunk that these rows have finished."""
        for row, loss in zip(rows, losses.split(1)):
            self._losses.extend(row, loss)

    def start_logs(self, losses: list[list[float]]) -> None:
        """Begin with these losses, by row, and no text."""
        self._losses = Log(losses)
        self._text = None if self._text is None else Log([[] for _ in losses])

    @property
    def text(self) -> list[list[int]] | None:
        """The tokens of each row, where they are kept (`keep_text`)."""
        return None if self._text is None else self._text.rows()

    @property
    def tokens_seen(self) -> Tensor:
        return torch.zeros(0, dtype=torch.long, device="cpu") if self.next_index is None else self.next_index

    def keep_text(self) -> TTTCache:
        """Keep the ids of all tokens from now on (8 bytes each), so that `consolidate` can take this cache.

        Raises
        ------
        InputError
            When tokens have been read already: they are gone.
        """
        if self.rows is not None and self._text is None:
            raise InputError("keep_text() was called after tokens had been read. Call it on a new cache.")
        self._text = self._text or Log([])
        return self

    def note_tokens(self, ids: Tensor, taken: list[int]) -> None:
        """Note which real tokens a segment holds, and keep them, if they are to be kept."""
        if self.digest is not None:
            self.digest = carried_on(self.digest, ids, taken)
        if self._text is not None:
            for row, (said, count) in enumerate(zip(ids.clone(), taken)):
                self._text.extend(row, said[:count])

    @property
    def nbytes(self) -> int:
        indices = sum(group.indices.nbytes for group in self._groups if group.indices is not None)
        fast = self.fast.nbytes
        waiting = (part.nbytes for part in (self.pending, self.gate_state) if part is not None)
        kept: int = sum(layer.nbytes for layer in self._layers) + (self.ring.nbytes if self.ring else 0)
        if self.turn is not None:
            before = self.turn.before
            kept += before.fast.nbytes + sum(
                old.nbytes for old, new in zip(before.layers, self.layers) if old.keys is not new.keys
            )
        return kept + indices + fast + sum(waiting)

    @property
    def rows(self) -> int | None:
        """Batch rows, or None before the first token."""
        return None if self.next_index is None else self.next_index.shape[0]

    @property
    def in_step(self) -> bool:
        """Whether all rows have read as many tokens and have as many waiting, so that their chunks end together."""
        waiting = self.pending.lengths if self.pending else []
        return len(set(self.counts)) <= 1 and len(set(waiting)) <= 1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens handed in so far, padding included."""
        return self.columns

    def prepare(self, rows: int, device: torch.device) -> None:
        """Give an empty cache its rows, or check that it has as many."""
        if self.next_index is None:
            self.next_index = torch.zeros(rows, dtype=torch.long, device=device)
            self.counts, self.ahead = [0] * rows, [0] * rows
            self.sinks = Sinks(self.next_index.new_zeros(rows, self.ttt.sink_tokens), [0] * rows)
            self.digest, self.marks = self.next_index.clone(), self.next_index.new_zeros(rows, 2)
            self.start_logs([[] for _ in range(rows)])
        elif self.rows != rows:
            raise InputError(
                f"The cache holds {self.rows} rows but the input has {rows}. Continue with the same batch, or start "
                "a new cache."
            )

    def fork(self) -> TTTCache:
        """This cache, to go on with: nothing that is done to it reaches this one, until `become`.

        Only what is small is copied. Buffers are shared, and written to only where this one has nothing yet.
        """
        forked = copy.copy(self)
        forked._layers = [copy.copy(layer) for layer in self._layers]
        forked._groups = [replace(group) for group in self._groups]
        forked.counts = list(self.counts)
        forked.pending = None if self.pending is None else self.pending.fork()
        forked.sinks = None if self.sinks is None else self.sinks.fork()
        forked.turn = None if self.turn is None else self.turn.fork()
        forked._losses = self._losses.fork()
        forked._text = None if self._text is None else self._text.fork()
        return forked

    def snapshot(self) -> TTTCache:
        """This cache as it is now. Of what steps and chunks write over it has copies; buffers are shared."""
        assert self.next_index is not None
        everyone = torch.arange(self.next_index.shape[0], device=self.next_index.device)
        kept = self.fork()
        kept._unroll()  # what stands in a ring is written over
        kept.turn = None
        kept.fast = self.fast.select(everyone)
        kept.pending = None if self.pending is None else self.pending.select(everyone, list(range(len(self.counts))))
        return kept.detach_()

    def before_turn(self) -> TTTCache:
        """The cache that the turn under way was read on top of, to read it again; columns count as they do now."""
        assert self.next_index is not None and self.turn is not None
        before = self.turn.before.fork()
        before._take_rows(on_device(self.turn.rows, self.next_index.device), self.turn.rows)
        before.columns, before.marks, before.ahead, before.held = self.columns, self.marks, self.ahead, self.held
        return before

    def become(self, forked: TTTCache) -> None:
        """Take over all that `forked` has: in one assignment, between whose halves no interrupt can come."""
        self.__dict__ = forked.__dict__

    def hand_in(self, real: Tensor | None, columns: int, width: int, ahead: list[int]) -> None:
        """Count `width` columns of a call as handed in.

        real: (B, T) bool, the call's columns, or None if all are; columns: those that were counted before the call;
        ahead: the tokens that each row has read beyond.
        """
        if self.marks is not None:
            numbers = torch.arange(self.columns, columns + width, device=self.marks.device)
            given = real if real is not None else numbers.new_ones(1, width)
            self.marks = self.marks + marks_of(given[:, self.columns - columns : width], numbers)
        self.columns, self.ahead = columns + width, ahead

    def recount(self, columns: int) -> None:
        """Number the columns anew, as `columns` in all: which of them are real, nobody can compare any more."""
        self.columns, self.marks, self.held, self.ahead = columns, None, None, [0] * len(self.counts)

    def begin(self, incoming: Tensor, width: int, in_ring: bool = False) -> None:
        """Announce the indices (B, T) of the tokens that come next, and make room for them, which a ring has."""
        self.incoming = incoming
        pending = self.pending.lengths if self.pending else [0] * incoming.shape[0]
        for number, group in enumerate([] if in_ring else self.groups):
            if group.capacity is None or group.length + width <= group.capacity:
                continue
            assert group.indices is not None
            columns = group.columns_to_keep(self.counts, pending, self.uniform)
            if columns.ndim == 1:
                group.indices = group.indices.index_select(1, columns)
            else:
                group.indices = group.indices.gather(1, columns.clamp_min(0)).masked_fill(columns < 0, -1)
            for layer, owner in zip(self.layers, self.group_of):
                if owner == number:
                    layer.keep_columns(columns)

    def finish(self, taken: list[int]) -> None:
        """Record the tokens announced by `begin`, `taken` by row, now that every layer holds them."""
        assert self.incoming is not None and self.next_index is not None
        for group in self._groups if self.ring is None else ():  # a ring knows them already
            group.indices = self.incoming if group.indices is None else torch.cat([group.indices, self.incoming], dim=1)
        read = (self.incoming >= 0).sum(1) if self.padded else self.incoming.shape[1]
        self.next_index = self.next_index + read
        self.counts = [count + take for count, take in zip(self.counts, taken)]
        self.incoming = None

    def detach_(self) -> TTTCache:
        """Forget the graph, keep the values."""
        for layer in self._layers:
            if layer.is_initialized and layer.keys.requires_grad:
                # A copy: the buffer will be written in place, and the graph still holds the original.
                layer.keys, layer.values = layer.keys.detach().clone(), layer.values.detach().clone()
        if any(tensor.requires_grad for tensor in self.fast.tensors().values()):
            self.fast = self.fast.detach()
        return self

    def reset(self) -> None:
        """Back to the state before the first token."""
        self.ring = None
        super().reset()
        for group in self.groups:
            group.indices = None
        self.columns, self.next_index, self.uniform, self.padded = 0, None, True, False
        self.pending, self.sinks, self.fast, self._losses, self.counts = None, None, FastState(), Log([]), []
        self.marks, self.ahead, self.held, self.digest = None, [], None, None
        self.gate_state, self.turn, self._text = None, None, None if self._text is None else Log([])

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows follow their beams: keys, values, fast weights and unfinished chunks alike."""
        self._select_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.next_index is not None:
            rows = torch.arange(self.next_index.shape[0], device=self.next_index.device)
            self._select_rows(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.next_index is not None:
            rows = torch.arange(self.next_index.shape[0], device=self.next_index.device)
            self._select_rows(rows[indices])

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove != 0:
            raise UnsupportedModelError(
                "A TTTCache cannot be cropped: updates of the fast weights cannot be taken back. Assisted decoding and "
                "other modes that roll back tokens do not work with test-time training; save the cache first instead."
            )

    def activate_past_recording(self) -> None:
        raise UnsupportedModelError("A TTTCache cannot record its past for a rollback; see `TTTCache.crop`.")

    def _select_rows(self, rows: Tensor) -> None:
        assert self.next_index is not None
        listed = rows.tolist()
        if listed == list(range(self.next_index.shape[0])):
            return
        # `generate` reorders beams in the caller's mode; tensors made in inference mode could never be updated again.
        with torch.inference_mode(False):
            forked = self.fork()
            forked._take_rows(on_device(listed, self.next_index.device), listed)
            self.become(forked)

    def _take_rows(self, rows: Tensor, listed: list[int]) -> None:
        assert self.next_index is not None
        self.ring = self.ring and self.ring.select(rows)
        for layer in self._layers:
            layer.select(rows)
        for group in self._groups:
            group.indices = None if group.indices is None else group.indices.index_select(0, rows)
        self.next_index = self.next_index.index_select(0, rows)
        self.fast = self.fast.select(rows)
        self.marks = None if self.marks is None else self.marks.index_select(0, rows)
        self.digest = None if self.digest is None else self.digest.index_select(0, rows)
        self._losses = self._losses.select(listed)
        self.counts, self.ahead = [self.counts[row] for row in listed], [self.ahead[row] for row in listed]
        self.held = None if self.held is None else self.held.select(rows)
        self.pending = None if self.pending is None else self.pending.select(rows, listed)
        self.sinks = None if self.sinks is None else self.sinks.select(rows, listed)
        self.gate_state = None if self.gate_state is None else self.gate_state.select(rows)
        self.turn = None if self.turn is None else self.turn.select(listed)
        self._text = None if self._text is None else self._text.select(listed)
