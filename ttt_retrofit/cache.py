"""`TTTCache`: all that a conversation carries: windowed keys and values, fast weights, the unfinished chunk.

Its size does not grow with the context. It travels as `past_key_values`, the one channel that every part of
transformers hands on. It knows nothing of models beyond the layout of their layers (`kv.py`).
B batch rows, C chunk.
"""

from __future__ import annotations

import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig

from .config import TTTConfig
from .errors import CheckpointError, InputError, UnsupportedModelError
from .fingerprint import same_base
from .gates import Topic
from .kv import RankedCache, ViewLayer, layout
from .state import FastState, Pending, Sinks

CACHE_FORMAT = 2
PENDING_TENSORS = ("ids", "positions", "learned")


class Owner(Protocol):
    """What loading a cache needs of the model it belongs to."""

    device: torch.device
    name_or_path: str

    @property
    def compute_dtype(self) -> torch.dtype: ...

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
        layers, tracks, track_of = layout(config.get_text_config(decoder=True), ttt)
        super().__init__(layers, tracks, track_of)
        self.ttt = ttt
        self.base = base  # fingerprint of the model it belongs to
        self.owner = ""  # the model itself, in memory: a fingerprint takes time, and changes when it is trained
        self.columns = 0  # tokens handed in so far, padding included: what `generate` counts
        self.ranks_seen: Tensor | None = None  # (B,) real tokens read so far
        self.counts: list[int] = []  # the same, where Python decides and a device must not be waited for
        self.sinks: Sinks | None = None
        self.uniform = True  # no row ever held padding: all rows keep the same columns
        self.pending: Pending | None = None
        self.topic: Topic | None = None  # what each row is about, once a memory has listened
        self.text: list[list[int]] | None = None  # the tokens of each row, where they are kept (`keep_text`)
        self.fast = FastState()
        self.losses: list[list[float]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> TTTCache:
        """A copy made in inference mode can be gone on from, too: tensors made in it could never be changed again."""
        made = memo[id(self)] = type(self).__new__(type(self))
        with torch.inference_mode(False):
            vars(made).update(copy.deepcopy(vars(self), memo))
        return made

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

    def keep_text(self) -> TTTCache:
        """Keep the ids of all tokens from now on (8 bytes each), so that `consolidate` can take this cache.

        Raises
        ------
        InputError
            When tokens have been read already: they are gone.
        """
        if self.rows is not None and self.text is None:
            raise InputError("keep_text() was called after tokens had been read. Call it on a new cache.")
        self.text = self.text or []
        return self

    def remember(self, ids: Tensor, taken: list[int]) -> None:
        """Keep the real tokens of a segment, if they are to be kept."""
        if self.text is not None:
            self.text = self.text or [[] for _ in taken]
            for kept, row, count in zip(self.text, ids.tolist(), taken):
                kept.extend(row[:count])

    @property
    def nbytes(self) -> int:
        tracked = sum(track.ranks.nbytes for track in self.tracks if track.ranks is not None)
        fast = self.fast.nbytes
        waiting = (part.nbytes for part in (self.pending, self.topic) if part is not None)
        return sum(layer.nbytes for layer in self.layers) + tracked + fast + sum(waiting)

    @property
    def rows(self) -> int | None:
        """Batch rows, or None before the first token."""
        return None if self.ranks_seen is None else self.ranks_seen.shape[0]

    @property
    def in_step(self) -> bool:
        """Whether all rows have read as many tokens and have as many waiting, so that their chunks end together."""
        waiting = self.pending.lengths if self.pending else []
        return len(set(self.counts)) <= 1 and len(set(waiting)) <= 1

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens handed in so far, padding included."""
        return self.columns

    def prepare(self, rows: int, device: torch.device) -> None:
        """Bind an empty cache to a batch size, or check that it has this one."""
        if self.ranks_seen is None:
            self.ranks_seen = torch.zeros(rows, dtype=torch.long, device=device)
            self.counts = [0] * rows
            self.sinks = Sinks(self.ranks_seen.new_zeros(rows, self.ttt.sink_tokens), [0] * rows)
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

    def finish(self, taken: list[int]) -> None:
        """Record the tokens announced by `begin`, `taken` by row, now that every layer holds them."""
        assert self.incoming is not None and self.ranks_seen is not None
        for track in self.tracks:
            track.ranks = self.incoming if track.ranks is None else torch.cat([track.ranks, self.incoming], dim=1)
        read = (self.incoming >= 0).sum(1) if self.padded else self.incoming.shape[1]
        self.ranks_seen = self.ranks_seen + read
        self.counts = [count + take for count, take in zip(self.counts, taken)]
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
            past = layer.past() if layer.is_initialized else None
            if past is not None and not everyone:
                past = past[0].index_select(0, index), past[1].index_select(0, index)
            layers.append(ViewLayer(past, layer.is_sliding))
        view = RankedCache(layers, tracks, self.track_of)
        chunk = torch.arange(self.pending.ids.shape[1], device=device)
        view.incoming, view.padded = start[:, None] + chunk, True
        return view

    def absorb(self, view: RankedCache, with_graph: bool) -> None:
        """Take over the keys and values that a forward through `view` added."""
        for layer, added in zip(self.layers, view.layers):
            keys, values = added.keys, added.values
            if keys is not None:
                layer.update(*((keys, values) if with_graph else (keys.detach(), values.detach())))

    def detach_(self) -> TTTCache:
        """Forget the graph, keep the values."""
        for layer in self.layers:
            if layer.is_initialized and layer.keys.requires_grad:
                # A copy: the buffer will be written in place, and the graph still holds the original.
                layer.keys, layer.values = layer.keys.detach().clone(), layer.values.detach().clone()
        if any(tensor.requires_grad for tensor in self.fast.tensors().values()):
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
                tensors[f"ranks|{index}"] = track.ranks.clone()  # tracks may share it, which safetensors refuses
        if self.ranks_seen is not None:
            tensors["ranks_seen"] = self.ranks_seen
        if self.sinks is not None:
            tensors["sink_ids"] = self.sinks.ids
        if self.pending is not None:
            tensors |= {f"pending|{name}": getattr(self.pending, name) for name in PENDING_TENSORS}
        topics = {"topic": self.topic, "pending_topic": self.pending.topic if self.pending else None}
        for name, topic in topics.items():
            if topic is not None:
                tensors |= {f"{name}|{part}": tensor.clone() for part, tensor in topic.tensors().items()}
        header = {
            "format": CACHE_FORMAT,
            "base": self.base,
            "ttt": self.ttt.to_dict(),
            "columns": self.columns,
            "uniform": self.uniform,
            "padded": self.padded,
            "losses": self.losses,
            "counts": self.counts,
            "anchors": self.sinks.anchors if self.sinks else None,
            "pending_lengths": self.pending.lengths if self.pending else None,
            "text": self.text,
            "tensors": sorted(tensors),
        }
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
            save_file(contiguous, temporary, metadata={"ttt_cache": json.dumps(header)})
            temporary.chmod(0o600)  # it tells what was read
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
            with torch.inference_mode(False), safe_open(path, framework="pt", device=str(model.device)) as file:
                header = json.loads((file.metadata() or {}).get("ttt_cache", "{}"))
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- not a mapping
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path} cannot be read as a TTTCache: {error}. Save it again.") from error
        if header.get("format") != CACHE_FORMAT:
            raise CheckpointError(f"{path} is no TTTCache of format {CACHE_FORMAT}: it says {header.get('format')!r}.")
        cache = model.new_cache()
        if not same_base(header["base"], cache.base):
            raise CheckpointError(f"{path} belongs to another base model than {model.name_or_path!r}. Load that one.")
        differing = TTTConfig.from_dict(header["ttt"]).state_differences(cache.ttt)
        if differing:
            raise CheckpointError(
                f"{path} was saved with another configuration: {', '.join(differing)}. "
                "Convert the model as it was converted then."
            )
        missing = sorted(set(header["tensors"]) - set(tensors))
        if missing:
            raise CheckpointError(f"{path} lacks the tensors {missing}: it was altered. Save it again.")
        with torch.inference_mode(False):
            cache._restore(header, tensors, model.compute_dtype)
        return cache

    def _restore(self, header: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.columns, self.uniform, self.padded = header["columns"], header["uniform"], header["padded"]
        self.losses, self.counts, self.ranks_seen = header["losses"], header["counts"], tensors.get("ranks_seen")
        if header["anchors"] is not None:
            self.sinks = Sinks(tensors["sink_ids"], header["anchors"])
        for index, track in enumerate(self.tracks):
            track.ranks = tensors.get(f"ranks|{index}")
        for index, layer in enumerate(self.layers):
            if f"keys|{index}" in tensors:
                # The model may have been loaded in another dtype than when the cache was saved.
                layer.update(tensors[f"keys|{index}"].to(dtype), tensors[f"values|{index}"].to(dtype))
        if header["pending_lengths"] is not None:
            ids, positions, learned = (tensors[f"pending|{name}"] for name in PENDING_TENSORS)
            topic = _topic(tensors, "pending_topic")
            self.pending = Pending(ids, positions, learned, header["pending_lengths"], topic)
        self.topic, self.text = _topic(tensors, "topic"), header["text"]
        fast = {key.removeprefix("fast|"): value for key, value in tensors.items() if key.startswith("fast|")}
        self.fast = FastState.from_tensors(fast)

    def reset(self) -> None:
        """Back to the state before the first token."""
        super().reset()
        for track in self.tracks:
            track.ranks = None
        self.columns, self.ranks_seen, self.uniform, self.padded = 0, None, True, False
        self.pending, self.sinks, self.fast, self.losses, self.counts = None, None, FastState(), [], []
        self.topic, self.text = None, None if self.text is None else []

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
        # `generate` reorders beams in the caller's mode; tensors made in inference mode could never be updated again.
        with torch.inference_mode(False):
            self._take_rows(torch.tensor(listed, device=self.ranks_seen.device), listed)

    def _take_rows(self, rows: Tensor, listed: list[int]) -> None:
        assert self.ranks_seen is not None
        for layer in self.layers:
            layer.select(rows)
        for track in self.tracks:
            track.ranks = None if track.ranks is None else track.ranks.index_select(0, rows)
        self.ranks_seen = self.ranks_seen.index_select(0, rows)
        self.fast = self.fast.select(rows)
        self.losses = [list(self.losses[row]) for row in listed]
        self.counts = [self.counts[row] for row in listed]
        self.pending = None if self.pending is None else self.pending.select(rows)
        self.sinks = None if self.sinks is None else self.sinks.select(rows)
        self.topic = None if self.topic is None else self.topic.select(rows)
        self.text = [list(self.text[row]) for row in listed] if self.text else self.text


def _topic(tensors: dict[str, Tensor], name: str) -> Topic | None:
    parts = {key.removeprefix(f"{name}|"): value for key, value in tensors.items() if key.startswith(f"{name}|")}
    return Topic(**parts) if parts else None
