"""`TTTCache`: all that a conversation carries: windowed keys and values, fast weights, the unfinished chunk.

Its size does not grow with the context. It travels as `past_key_values`, the one channel that every part of
transformers hands on. It knows nothing of models beyond the layout of their layers.
B batch rows, H key-value heads, N kept tokens, D head dimension, C chunk, W window.

Tokens are numbered by *rank* within their row, padding excluded; `window.py` builds masks from ranks, so what is kept,
in which order, and beside which padding never changes a result.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, get_layer_types_and_kwargs

from .config import TTTConfig
from .errors import CheckpointError, InputError, UnsupportedModelError
from .fast_weights import Weights
from .inner_loop import SiteState
from .window import Attended

CACHE_FORMAT = 1
PENDING_TENSORS = ("ids", "positions", "learned")
ATTENTION_TYPES = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass
class Track:
    """Which tokens a group of layers keeps: all its layers share one reach, hence one list of ranks."""

    window: int | None  # tokens a query reaches back to, itself included; None for all
    sinks: int
    narrowed: bool  # whether the mask has to narrow the family's own pattern to window and sinks
    room: int  # tokens that must fit beside the window: the unfinished chunk
    ranks: Tensor | None = None  # (B, N)

    @property
    def length(self) -> int:
        return 0 if self.ranks is None else self.ranks.shape[1]

    @property
    def capacity(self) -> int | None:
        return None if self.window is None else self.sinks + self.window - 1 + self.room

    def surplus(self, first_query: Tensor, uniform: bool) -> Tensor | None:
        """Which kept tokens to go on keeping when the oldest token still to be read, or read again, is `first_query`.

        Returns (M,) column indices if the rows are alike, else (B, M) with -1 where a row keeps fewer.
        """
        assert self.ranks is not None and self.window is not None
        oldest = first_query[:, None] - (self.window - 1)
        keep = (self.ranks >= 0) & ((self.ranks >= oldest) | (self.ranks < self.sinks))
        if uniform:
            return keep[0].nonzero()[:, 0]
        order = torch.argsort((~keep).to(torch.uint8), dim=1, stable=True)
        counts = keep.sum(1)
        widest = int(counts.max())
        order = order[:, :widest]
        return order.masked_fill(torch.arange(widest, device=order.device) >= counts[:, None], -1)


class WindowedLayer(CacheLayerMixin):
    """Keys and values of one layer, in a buffer that is filled in place and never grows past its track's capacity.

    With a graph to keep (the outer loop), tensors are concatenated instead and carry their history.
    """

    def __init__(self, track: Track, is_sliding: bool) -> None:
        super().__init__()
        self.track = track
        self.is_sliding = is_sliding
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) and return everything kept, (B, H, N + T, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if key_states.requires_grad or self._keys.requires_grad:
            self.keys = torch.cat([self._kept(self._keys), key_states], dim=2)
            self.values = torch.cat([self._kept(self._values), value_states], dim=2)
            self.length = self._keys.shape[2]
            return self._keys, self._values
        end = self.length + key_states.shape[2]
        if end > self._keys.shape[2]:
            self._grow(end)
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        return self.past()

    def past(self) -> tuple[Tensor, Tensor]:
        return self._kept(self._keys), self._kept(self._values)

    def keep(self, index: Tensor) -> None:
        """Drop all columns but `index`, as `Track.surplus` gives them."""
        if not self.is_initialized:
            return
        kept = index.shape[-1]
        if index.ndim == 1:
            keys, values = (t.index_select(2, index) for t in (self._keys, self._values))
        else:
            wide = index.clamp_min(0)[:, None, :, None]
            keys, values = (
                t.gather(2, wide.expand(-1, t.shape[1], -1, t.shape[3])) for t in (self._keys, self._values)
            )
        if keys.requires_grad:
            self.keys, self.values = keys, values
        else:
            self._keys[:, :, :kept], self._values[:, :, :kept] = keys, values
        self.length = kept

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows`, which may repeat."""
        if self.is_initialized:
            self.keys, self.values = self._keys.index_select(0, rows), self._values.index_select(0, rows)

    def _grow(self, needed: int) -> None:
        size = self.track.capacity or max(2 * self._keys.shape[2], needed, 256)
        size = max(size, needed)
        for name in ("keys", "values"):
            old = getattr(self, name)
            grown = old.new_zeros(*old.shape[:2], size, old.shape[3])
            grown[:, :, : self.length] = old[:, :, : self.length]
            setattr(self, name, grown)

    def _kept(self, tensor: Tensor) -> Tensor:
        return tensor[:, :, : self.length]

    @property
    def _keys(self) -> Tensor:
        assert self.keys is not None
        return self.keys

    @property
    def _values(self) -> Tensor:
        assert self.values is not None
        return self.values

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes

    def reset(self) -> None:
        self.keys = self.values = None
        self.is_initialized = False
        self.length = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1


class ViewLayer(CacheLayerMixin):
    """The past of one layer, read-only, and what one forward adds to it."""

    def __init__(self, past: tuple[Tensor, Tensor] | None, is_sliding: bool) -> None:
        super().__init__()
        self.past = past
        self.is_sliding = is_sliding

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        # Assigning, not appending: a recomputation under activation checkpointing must find the same past.
        self.keys, self.values = key_states, value_states
        if self.past is None:
            return key_states, value_states
        keys, values = self.past
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return (0 if self.past is None else self.past[0].shape[2]) + query_length, 0

    def get_seq_length(self) -> int:
        return self.get_mask_sizes(0)[0]

    def get_max_length(self) -> int:
        return -1


class RankedCache(Cache):
    """A cache that can say what the tokens of the present forward attend to."""

    def __init__(self, layers: list[Any], tracks: list[Track], track_of: list[int]) -> None:
        super().__init__(layers=layers)
        self.tracks = tracks
        self.track_of = track_of
        self.incoming: Tensor | None = None  # (B, T) ranks of the tokens being forwarded
        self.padded = False
        self._asked = 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        # transformers asks for the sizes right before it builds the mask of the same layers.
        self._asked = layer_idx
        return super().get_mask_sizes(query_length, layer_idx)

    def attended(self) -> Attended:
        """What the incoming tokens see in the layers whose mask is being built."""
        track = self.tracks[self.track_of[self._asked]]
        assert self.incoming is not None
        ranks = self.incoming if track.ranks is None else torch.cat([track.ranks, self.incoming], dim=1)
        window = track.window if track.narrowed else None
        return Attended(self.incoming, ranks, window, track.sinks, self.padded)


@dataclass
class Pending:
    """The tokens of each row's unfinished chunk, which an update will read again once the chunk is full."""

    ids: Tensor  # (B, C)
    positions: Tensor  # (B, C)
    learned: Tensor  # (B, C) bool: whether the token is a target of the inner loss
    lengths: list[int]  # tokens present, by row

    @property
    def nbytes(self) -> int:
        return self.ids.nbytes + self.positions.nbytes + self.learned.nbytes


@dataclass
class FastState:
    """Fast weights of all sites and the number of updates each row has had; `sites` is empty before the first."""

    sites: dict[str, SiteState] = field(default_factory=dict)
    steps: Tensor | None = None  # (B,)
    _cast: dict[str, Weights] = field(default_factory=dict)

    def cast(self, dtype: torch.dtype) -> dict[str, Weights]:
        """The weights in the dtype of the model, converted once per update rather than once per token."""
        if not self._cast:
            self._cast = {
                site: {name: weight.to(dtype) for name, weight in state.weights.items()}
                for site, state in self.sites.items()
            }
        return self._cast

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a unique name, for counting, selecting and saving."""
        named = {} if self.steps is None else {"steps": self.steps}
        for site, state in self.sites.items():
            for name, weight in state.weights.items():
                named[f"{site}|{name}"] = weight
                for slot, value in state.optimizer[name].items():
                    named[f"{site}|{name}|{slot}"] = value
        return named

    @property
    def nbytes(self) -> int:
        cast = (weight for weights in self._cast.values() for weight in weights.values())
        # A cast to the same dtype is the same tensor.
        unique = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.tensors().values(), *cast)}
        return sum(unique.values())

    @classmethod
    def from_tensors(cls, named: dict[str, Tensor]) -> FastState:
        state = cls(steps=named.get("steps"))
        for key, value in named.items():
            if key == "steps":
                continue
            site, name, *slot = key.split("|")
            entry = state.sites.setdefault(site, SiteState({}, {}))
            entry.optimizer.setdefault(name, {})
            if slot:
                entry.optimizer[name][slot[0]] = value
            else:
                entry.weights[name] = value
        return state

    def detach(self) -> FastState:
        return FastState.from_tensors({key: value.detach() for key, value in self.tensors().items()})

    def replace_rows(self, rows: Tensor, other: FastState) -> FastState:
        """These weights with the rows `rows` taken from `other`, which holds only those."""
        new = other.tensors()
        return FastState.from_tensors({key: old.index_copy(0, rows, new[key]) for key, old in self.tensors().items()})

    def select(self, rows: Tensor) -> FastState:
        return FastState.from_tensors({key: value.index_select(0, rows) for key, value in self.tensors().items()})


class Owner(Protocol):
    """What loading a cache needs of the model it belongs to."""

    device: torch.device
    name_or_path: str

    def new_cache(self) -> TTTCache: ...


class TTTCache(RankedCache):
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

    def __init__(self, config: PreTrainedConfig, ttt: TTTConfig, base: str) -> None:
        layers, tracks, track_of = _layout(config.get_text_config(decoder=True), ttt)
        super().__init__(layers, tracks, track_of)
        self.ttt = ttt
        self.base = base  # fingerprint of the model it belongs to
        self.columns = 0  # tokens handed in so far, padding included: what `generate` counts
        self.ranks_seen: Tensor | None = None  # (B,)
        self.uniform = True  # no row ever held padding: all rows keep the same columns
        self.pending: Pending | None = None
        self.fast = FastState()
        self.losses: list[list[float]] = []

    @property
    def loss_by_chunk(self) -> Tensor:
        longest = max((len(losses) for losses in self.losses), default=0)
        return torch.tensor([losses + [math.nan] * (longest - len(losses)) for losses in self.losses])

    def log_losses(self, by_row: dict[int, float]) -> None:
        for row, loss in by_row.items():
            self.losses[row].append(loss)

    @property
    def tokens_seen(self) -> Tensor:
        return torch.zeros(0, dtype=torch.long) if self.ranks_seen is None else self.ranks_seen

    @property
    def nbytes(self) -> int:
        tracked = sum(track.ranks.nbytes for track in self.tracks if track.ranks is not None)
        fast = self.fast.nbytes
        return sum(layer.nbytes for layer in self.layers) + tracked + fast + (self.pending.nbytes if self.pending else 0)

    @property
    def rows(self) -> int | None:
        """Batch rows, or None before the first token."""
        return None if self.ranks_seen is None else self.ranks_seen.shape[0]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens handed in so far, padding included."""
        return self.columns

    def prepare(self, rows: int, device: torch.device) -> None:
        """Bind an empty cache to a batch size, or check that it has this one."""
        if self.ranks_seen is None:
            self.ranks_seen = torch.zeros(rows, dtype=torch.long, device=device)
            self.losses = [[] for _ in range(rows)]
        elif self.rows != rows:
            raise InputError(
                f"The cache holds {self.rows} rows but the input has {rows}. Continue with the same batch, or start "
                "a new cache."
            )

    def begin(self, incoming: Tensor, width: int) -> None:
        """Announce the ranks (B, T) of the tokens that come next, and make room for them."""
        self.incoming = incoming
        pending = self.pending.lengths if self.pending else [0] * incoming.shape[0]
        for index, track in enumerate(self.tracks):
            if track.capacity is None or track.length + width <= track.capacity:
                continue
            assert self.ranks_seen is not None and track.ranks is not None
            first = self.ranks_seen - torch.tensor(pending, device=self.ranks_seen.device)
            keep = track.surplus(first, self.uniform)
            assert keep is not None
            if keep.ndim == 1:
                track.ranks = track.ranks.index_select(1, keep)
            else:
                track.ranks = track.ranks.gather(1, keep.clamp_min(0)).masked_fill(keep < 0, -1)
            for layer, owner in zip(self.layers, self.track_of):
                if owner == index:
                    layer.keep(keep)

    def finish(self) -> None:
        """Record the tokens announced by `begin`, now that every layer holds them."""
        assert self.incoming is not None and self.ranks_seen is not None
        for track in self.tracks:
            track.ranks = self.incoming if track.ranks is None else torch.cat([track.ranks, self.incoming], dim=1)
        read = (self.incoming >= 0).sum(1) if self.padded else self.incoming.shape[1]
        self.ranks_seen = self.ranks_seen + read
        self.incoming = None

    def view(self) -> RankedCache:
        """A read-only look at the present past, for a forward that builds a graph."""
        layers = [ViewLayer(layer.past() if layer.is_initialized else None, layer.is_sliding) for layer in self.layers]
        # Copies of the tracks: a recomputation, later, must find the ranks of now.
        view = RankedCache(layers, [replace(track) for track in self.tracks], self.track_of)
        view.incoming, view.padded = self.incoming, self.padded
        return view

    def view_before_pending(self, rows: list[int]) -> RankedCache:
        """The past of `rows` as it was before their unfinished chunk, to read that chunk again."""
        assert self.ranks_seen is not None and self.pending is not None
        device = self.ranks_seen.device
        index = torch.tensor(rows, device=device)
        everyone = len(rows) == self.rows
        start = self.ranks_seen[index] - torch.tensor([self.pending.lengths[row] for row in rows], device=device)
        tracks = []
        for track in self.tracks:
            assert track.ranks is not None
            ranks = track.ranks[index]
            tracks.append(replace(track, ranks=ranks.masked_fill(ranks >= start[:, None], -1)))
        layers = []
        for layer in self.layers:
            past = layer.past() if everyone else tuple(t.index_select(0, index) for t in layer.past())
            layers.append(ViewLayer(past, layer.is_sliding))
        view = RankedCache(layers, tracks, self.track_of)
        chunk = torch.arange(self.pending.ids.shape[1], device=device)
        view.incoming, view.padded = start[:, None] + chunk, True
        return view

    def absorb(self, view: RankedCache, with_graph: bool) -> None:
        """Take over the keys and values that a forward through `view` added."""
        for layer, added in zip(self.layers, view.layers):
            keys, values = added.keys, added.values
            layer.update(*((keys, values) if with_graph else (keys.detach(), values.detach())))

    def detach_(self) -> TTTCache:
        """Forget the graph, keep the values."""
        for layer in self.layers:
            if layer.is_initialized and layer.keys.requires_grad:
                # A copy: the buffer will be written in place, and the graph still holds the original.
                layer.keys, layer.values = layer.keys.detach().clone(), layer.values.detach().clone()
        self.fast = self.fast.detach()
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Write the whole conversation to one safetensors file, atomically. `load` goes on bit for bit."""
        tensors = {f"fast|{key}": value for key, value in self.fast.tensors().items()}
        for index, layer in enumerate(self.layers):
            if layer.is_initialized:
                tensors[f"keys|{index}"], tensors[f"values|{index}"] = layer.past()
        for index, track in enumerate(self.tracks):
            if track.ranks is not None:
                tensors[f"ranks|{index}"] = track.ranks
        if self.ranks_seen is not None:
            tensors["ranks_seen"] = self.ranks_seen
        if self.pending is not None:
            tensors |= {f"pending|{name}": getattr(self.pending, name) for name in PENDING_TENSORS}
        header = {
            "format": CACHE_FORMAT,
            "base": self.base,
            "ttt": self.ttt.to_dict(),
            "columns": self.columns,
            "uniform": self.uniform,
            "padded": self.padded,
            "losses": self.losses,
            "pending_lengths": self.pending.lengths if self.pending else None,
        }
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
            save_file(contiguous, temporary, metadata={"ttt_cache": json.dumps(header)})
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike, model: Owner) -> TTTCache:
        """Read a file that `save` wrote, for the model it was made with.

        Raises
        ------
        CheckpointError
            When the file is missing, damaged, or was made with another base or configuration.
        """
        try:
            with safe_open(path, framework="pt", device=str(model.device)) as file:
                header = json.loads((file.metadata() or {}).get("ttt_cache", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read as a TTTCache: {error}. Save it again.") from error
        if header.get("format") != CACHE_FORMAT:
            raise CheckpointError(f"{path} is no TTTCache of format {CACHE_FORMAT}: it says {header.get('format')!r}.")
        cache = model.new_cache()
        if header["base"] != cache.base:
            raise CheckpointError(f"{path} belongs to another base model than {model.name_or_path!r}. Load that one.")
        cache.ttt = TTTConfig.from_dict(header["ttt"])
        cache._restore(header, tensors)
        return cache

    def _restore(self, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.columns, self.uniform, self.padded = header["columns"], header["uniform"], header["padded"]
        self.losses, self.ranks_seen = header["losses"], tensors.get("ranks_seen")
        for index, track in enumerate(self.tracks):
            track.ranks = tensors.get(f"ranks|{index}")
        for index, layer in enumerate(self.layers):
            if f"keys|{index}" in tensors:
                layer.update(tensors[f"keys|{index}"], tensors[f"values|{index}"])
        if header["pending_lengths"] is not None:
            parts = (tensors[f"pending|{name}"] for name in PENDING_TENSORS)
            self.pending = Pending(*parts, lengths=header["pending_lengths"])
        fast = {key.removeprefix("fast|"): value for key, value in tensors.items() if key.startswith("fast|")}
        self.fast = FastState.from_tensors(fast)

    def reset(self) -> None:
        """Back to the state before the first token."""
        super().reset()
        for track in self.tracks:
            track.ranks = None
        self.columns, self.ranks_seen, self.uniform, self.padded = 0, None, True, False
        self.pending, self.fast, self.losses = None, FastState(), []

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Rows follow their beams: keys, values, fast weights and unfinished chunks alike."""
        self._select_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        if self.ranks_seen is not None:
            rows = torch.arange(self.ranks_seen.shape[0], device=self.ranks_seen.device)
            self._select_rows(rows.repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.ranks_seen is not None:
            rows = torch.arange(self.ranks_seen.shape[0], device=self.ranks_seen.device)
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
        assert self.ranks_seen is not None
        listed = rows.tolist()
        if listed == list(range(self.ranks_seen.shape[0])):
            return
        rows = rows.to(self.ranks_seen.device)
        for layer in self.layers:
            layer.select(rows)
        for track in self.tracks:
            track.ranks = None if track.ranks is None else track.ranks.index_select(0, rows)
        self.ranks_seen = self.ranks_seen.index_select(0, rows)
        self.fast = self.fast.select(rows)
        self.losses = [list(self.losses[row]) for row in listed]
        if self.pending is not None:
            old = self.pending
            self.pending = Pending(
                *(tensor.index_select(0, rows) for tensor in (old.ids, old.positions, old.learned)),
                lengths=[old.lengths[row] for row in listed],
            )


def _layout(config: PreTrainedConfig, ttt: TTTConfig) -> tuple[list[WindowedLayer], list[Track], list[int]]:
    """One layer per decoder layer, grouped into tracks by how far they reach."""
    types, arguments = get_layer_types_and_kwargs(config)
    unknown = sorted(set(types) - set(ATTENTION_TYPES))
    if unknown:
        raise UnsupportedModelError(
            f"Layers of type {unknown} keep a state that cannot be rolled back to the start of a chunk. "
            f"Only {list(ATTENTION_TYPES)} layers can be read with test-time training so far."
        )
    tracks: list[Track] = []
    layers, track_of = [], []
    for kind, kwargs in zip(types, arguments):
        own = kwargs.get("sliding_window")
        # A family's own window is already in its pattern, trained without sinks; ours matters only where it is smaller.
        if own is not None and (ttt.sliding_window is None or own <= ttt.sliding_window):
            track = Track(own, 0, narrowed=False, room=ttt.chunk_size)
        else:
            sinks = ttt.sink_tokens if ttt.sliding_window is not None else 0
            track = Track(ttt.sliding_window, sinks, narrowed=ttt.sliding_window is not None, room=ttt.chunk_size)
        if track not in tracks:
            tracks.append(track)
        index = tracks.index(track)
        track_of.append(index)
        layers.append(WindowedLayer(tracks[index], is_sliding=kind != "full_attention"))
    return layers, tracks, track_of
