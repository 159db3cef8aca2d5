"""`SavedCache`: what of a cache goes into its file, and comes back from it.

What the file may hold is checked in `cache_file.py`.
B batch rows, H key-value heads, D head dimension.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..config import TTTConfig
from ..errors import CheckpointError
from ..inner.fast_state import FastState
from ..inner.fast_weights import FastWeights
from ..inner.inner_optimizers import inner_optimizer
from ..inner.layer import TTTSite
from ..memory.gates import GateState
from ..util.fingerprint import same_base
from . import cache_file
from .cache_file import CACHE_FORMAT, COMPARED, GATE_STATES, PENDING_TENSORS, Expected, parts_of
from .kv import IndexedCache
from .state import Held, Log, Pending, RowState, Sinks
from .turn import Turn

# (H, D) of the keys and of the values of every layer, by base; asking a model takes a forward.
_KEPT: dict[str, list[tuple[tuple[int, int], tuple[int, int]] | None]] = {}


class Owner(Protocol):
    """What loading a cache needs of the model it belongs to."""

    config: Any
    device: torch.device
    name_or_path: str
    learned_positions: int | None
    kind: FastWeights

    @property
    def compute_dtype(self) -> torch.dtype: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def sites(self) -> list[TTTSite]: ...

    def new_cache(self) -> Any: ...

    def __call__(self, **kwargs: Any) -> Any: ...


class SavedCache(IndexedCache):
    """A cache that can be written to a file and read from it."""

    ttt: TTTConfig
    base: str
    columns: int
    uniform: bool
    counts: list[int]
    ahead: list[int]
    next_index: Tensor | None
    marks: Tensor | None
    digest: Tensor | None
    held: Held | None
    sinks: Sinks | None
    pending: Pending | None
    gate_state: RowState | None
    turn: Turn[Any] | None
    fast: FastState
    _losses: Log
    _text: Log | None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole conversation to one safetensors file, atomically. `load` goes on bit for bit.

        Where a memory acts in the turn under way, the file also holds the cache of before that turn.
        """
        header, tensors = self._contents()
        if self.turn is not None:
            before, kept = self.turn.before._contents()
            header["turn"] = {"before": before, **self.turn.described()}
            tensors |= {f"turn|{name}": tensor.clone() for name, tensor in kept.items()}  # buffers are shared
        cache_file.write_file(Path(path), header, tensors)

    def _contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Header and tensors, but for the turn under way."""
        tensors = {f"fast|{key}": value for key, value in self.fast.tensors().items()}
        for index, layer in enumerate(self.layers):
            if layer.is_initialized:
                tensors[f"keys|{index}"], tensors[f"values|{index}"] = layer.past()
        for index, group in enumerate(self.groups):
            if group.indices is not None:
                tensors[f"ranks|{index}"] = group.indices.clone()  # groups may share it, which safetensors refuses
        compared = [name for name in COMPARED if getattr(self, name) is not None]
        tensors |= {name: getattr(self, name) for name in compared}
        if self.next_index is not None:
            tensors["ranks_seen"] = self.next_index
        if self.held is not None:
            tensors |= {"held_ids": self.held.ids, "held_unread": self.held.unread}
        if self.sinks is not None:
            tensors["sink_ids"] = self.sinks.ids
        if self.pending is not None:
            tensors |= {f"pending|{name}": getattr(self.pending, name) for name in PENDING_TENSORS}
        pending_state = self.pending.gate_state if self.pending else None
        for name, state in zip(GATE_STATES, (self.gate_state, pending_state)):
            if state is not None:
                tensors |= {f"{name}|{part}": tensor.clone() for part, tensor in state.tensors().items()}
        header = {
            "format": CACHE_FORMAT,
            "base": self.base,
            "ttt": self.ttt.to_dict(),
            "columns": self.columns,
            "uniform": self.uniform,
            "padded": self.padded,
            "losses": self._losses.rows(),
            "counts": self.counts,
            "anchors": self.sinks.anchors if self.sinks else None,
            "pending_lengths": self.pending.lengths if self.pending else None,
            "text": None if self._text is None else self._text.rows(),
            "ahead": self.ahead,
            "compared": compared,
            "tensors": sorted(tensors),
        }
        return header, tensors

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Owner) -> Self:
        """Read a file that `save` wrote, for the model it was made with.

        Raises
        ------
        CheckpointError
            When the file is missing, damaged, or was made with another base or configuration; when anything in it is
            not what a cache of this model may hold.
        """
        path = Path(path)
        header, tensors = cache_file.read_file(path, model.device)
        cache: Self = model.new_cache()
        if not same_base(str(header.get("base")), cache.base):
            raise CheckpointError(f"{path} belongs to another base model than {model.name_or_path!r}. Load that one.")
        differing = cache_file.configuration(path, header).state_differences(cache.ttt)
        if differing:
            raise CheckpointError(
                f"{path} was saved with another configuration: {', '.join(differing)}. "
                "Convert the model as it was converted then."
            )
        cache_file.check_contents(path, header, tensors, _expected(model, cache))
        with torch.inference_mode(False):
            cache._restore(header, tensors, model.compute_dtype)
            turn = header.get("turn")
            if turn is not None:
                before: Self = model.new_cache()
                before._restore(turn["before"], parts_of(tensors, "turn"), model.compute_dtype)
                cache.turn = Turn.from_description(before, turn)
        return cache

    def _restore(self, header: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.columns, self.uniform, self.padded = header["columns"], header["uniform"], header["padded"]
        self._losses, self.counts, self.next_index = Log(header["losses"]), header["counts"], tensors.get("ranks_seen")
        # Files of earlier versions do not tell which columns were real, and nothing can be compared with them.
        self.marks, self.digest = tensors.get("marks"), tensors.get("digest")
        self.ahead = header.get("ahead", [0] * len(self.counts))
        if "held_ids" in tensors:
            self.held = Held(tensors["held_ids"], tensors["held_unread"])
        if header["anchors"] is not None:
            self.sinks = Sinks(tensors["sink_ids"], header["anchors"])
        for index, group in enumerate(self.groups):
            group.indices = tensors.get(f"ranks|{index}")
        for index, layer in enumerate(self.layers):
            if f"keys|{index}" in tensors:
                # The model may have been loaded in another dtype than when the cache was saved.
                layer.update(tensors[f"keys|{index}"].to(dtype), tensors[f"values|{index}"].to(dtype))
        self.gate_state, pending_state = (GateState.from_tensors(parts_of(tensors, name)) for name in GATE_STATES)
        if header["pending_lengths"] is not None:
            ids, positions, learned = (tensors[f"pending|{name}"] for name in PENDING_TENSORS)
            lengths = header["pending_lengths"]
            targets = [sum(row[1:length]) for row, length in zip(learned.tolist(), lengths)]
            self.pending = Pending(ids, positions, learned, lengths, targets, pending_state)
        self._text = None if header["text"] is None else Log(header["text"])
        self.fast = FastState.from_tensors(parts_of(tensors, "fast"))


def _expected(model: Owner, fresh: SavedCache) -> Expected:
    """What a cache of this model may hold. `fresh`: an empty one."""
    fast: dict[str, tuple[int, int]] = {}
    method = inner_optimizer(fresh.ttt.inner_optimizer)
    for site in model.sites:
        for name, shape in model.kind.shapes(site.site).items():
            fast[f"{site.site.name}|{name}"] = shape
            fast |= {f"{site.site.name}|{name}|{slot}": method.slot_shape(slot, shape) for slot in method.slots}
    return Expected(
        ttt=fresh.ttt,
        vocabulary=model.vocabulary_size,
        positions=model.learned_positions or cache_file.LARGEST_POSITION,
        width=model.config.get_text_config(decoder=True).hidden_size,
        groups=fresh.groups,
        group_of=fresh.group_of,
        kept=_kept(model, fresh.base),
        fast=fast,
    )


def _kept(model: Owner, base: str) -> list[tuple[tuple[int, int], tuple[int, int]] | None]:
    """(H, D) of the keys and of the values of every layer, None of one that keeps none.

    Configurations say it in a different way for every family, and sometimes for every layer; a token that is read
    says what is so.
    """
    if base not in _KEPT:
        token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
        with torch.no_grad():
            read = model(input_ids=token, past_key_values=model.new_cache(), learn_from="none").past_key_values
        pasts = [layer.past() if layer.is_initialized else None for layer in read.layers]
        _KEPT[base] = [
            past and ((past[0].shape[1], past[0].shape[3]), (past[1].shape[1], past[1].shape[3])) for past in pasts
        ]
    return _KEPT[base]
