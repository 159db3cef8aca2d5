"""Losses, time and state of one text under four ways of reading it, on the same weights.

The base under full attention is what the others are held against: a window alone, a window with sinks, and a window
with sinks whose fast weights learn. All report the loss of every token of the text, whatever the chunks.
T tokens, C tokens of one call, V vocabulary.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from ttt_retrofit import TTTCache, TTTConfig, wrap
from ttt_retrofit.modeling import TTTMixin

FULL, WINDOW, SINKS, TTT = "full attention", "window", "window + sinks", "window + sinks + TTT"

# What each streaming system changes of the configuration that is being measured.
STREAMING: dict[str, dict[str, Any]] = {
    WINDOW: {"learn_from": "none", "sink_tokens": 0},
    SINKS: {"learn_from": "none"},
    TTT: {},
}
SYSTEMS = (FULL, *STREAMING)
FULL_ATTENTION_CHUNK = 512  # tokens per call; the logits of a long text at once would be gigabytes

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Reading:
    """What reading one text gave."""

    losses: Tensor  # (T - 1,) float32 on the CPU, nats; losses[i] is of token i + 1
    seconds: float  # spent in the model, computing these losses excluded
    state_bytes: int  # the most that was carried from one call to the next: keys, values, fast weights

    @property
    def mean(self) -> float:
        """Nats per token."""
        return self.losses.mean().item()

    @property
    def by_quarter(self) -> tuple[float, float, float, float]:
        """Mean loss of each quarter of the positions, nats per token. Fewer than 4 losses give NaN."""
        edges = [len(self.losses) * quarter // 4 for quarter in range(5)]
        first, second, third, last = (self.losses[a:b].mean().item() for a, b in itertools.pairwise(edges))
        return first, second, third, last

    @property
    def tokens_per_second(self) -> float:
        return (len(self.losses) + 1) / self.seconds


def full_attention(model: PreTrainedModel, ids: Tensor, advance: Advance | None = None) -> Reading:
    """Read with the plain base, keeping every key and value, as transformers does.

    Parameters
    ----------
    ids : (T,) or (1, T) token ids, at least 2.
    advance : called with the number of tokens just read; first with 0, when reading starts.

    Raises
    ------
    TypeError
        When the model is a converted one: `unwrap()` it first.
    """
    if isinstance(model, TTTMixin):
        raise TypeError(f"full_attention() measures a plain base, found {type(model).__name__}. Call unwrap() first.")
    cache = DynamicCache(config=model.config)

    def size(_: Any) -> int:
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers if layer.is_initialized)

    return _read(model, ids, FULL_ATTENTION_CHUNK, cache, size, advance)


def streaming(
    model: PreTrainedModel, ids: Tensor, advance: Advance | None = None, cache: TTTCache | None = None
) -> Reading:
    """Read with a converted model as it is configured, one chunk per call.

    Parameters
    ----------
    ids, advance : as for `full_attention`.
    cache : what to read into, for a caller that goes on from there; a new one when not given.

    Raises
    ------
    TypeError
        When the model is not a converted one.
    """
    if not isinstance(model, TTTMixin):
        raise TypeError(f"streaming() measures a converted model, found {type(model).__name__}. Call wrap() first.")
    cache = model.new_cache() if cache is None else cache
    return _read(model, ids, model.ttt.chunk_size, cache, lambda cache: cache.nbytes, advance)


def configure(model: Any, config: TTTConfig, system: str) -> None:
    """Make a converted model one of the `STREAMING` systems, as variations of `config`."""
    changed = replace(config, **STREAMING[system])
    model.configure_ttt(learn_from=changed.learn_from, sink_tokens=changed.sink_tokens)


def _read(
    model: Any, ids: Tensor, chunk: int, cache: Any, size: Callable[[Any], int], advance: Advance | None
) -> Reading:
    ids = torch.as_tensor(ids, device=model.device).reshape(1, -1)  # (1, T)
    if ids.shape[1] < 2:
        raise ValueError(f"Found {ids.shape[1]} tokens, expected at least 2: the loss is on the next token.")
    losses: list[Tensor] = []
    before: Tensor | None = None  # (1, V) logits that predict the first token of the next call
    seconds, largest = 0.0, 0
    if advance is not None:
        advance(0)
    for start in range(0, ids.shape[1], chunk):
        part = ids[:, start : start + chunk]  # (1, C)
        began = _now(model)
        with torch.no_grad():
            out = model(input_ids=part, past_key_values=cache, use_cache=True)
        seconds += _now(model) - began
        cache, logits = out.past_key_values, out.logits[0]  # (C, V)
        if before is not None:
            losses.append(functional.cross_entropy(before.float(), part[0, :1], reduction="none"))
        losses.append(functional.cross_entropy(logits[:-1].float(), part[0, 1:], reduction="none"))
        before = logits[-1:].clone()
        largest = max(largest, size(cache))
        if advance is not None:
            advance(part.shape[1])
    return Reading(torch.cat(losses).cpu(), seconds, largest)


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # kernels run on after the call that launched them
    return time.perf_counter()


def compare(
    base: PreTrainedModel, ids: Tensor, config: TTTConfig, *, full: Reading | None = None, title: str = ""
) -> dict[str, Reading]:
    """Read one text in all four ways, with progress shown on stderr. The base is handed back as it came.

    Parameters
    ----------
    base : a plain model; it is converted in place for the while.
    ids : (T,) or (1, T) token ids.
    config : how the converted model reads; the systems differ from it in what `STREAMING` says.
    full : the reading under full attention if it is known already, to save the time of a second one.

    Returns
    -------
    One reading for each of `SYSTEMS`, in that order.
    """
    readings = {} if full is None else {FULL: full}
    pending = [name for name in SYSTEMS if name not in readings]
    with progress_bars(pending, torch.as_tensor(ids).numel(), title) as bars:
        if full is None:
            readings[FULL] = full_attention(base, ids, bars[FULL])
        with converted(base, config) as model:
            for name in STREAMING:
                configure(model, config, name)
                readings[name] = streaming(model, ids, bars[name])
    return readings


@contextmanager
def converted(base: PreTrainedModel, config: TTTConfig) -> Iterator[Any]:
    """`base` wrapped for the block, and unwrapped after it."""
    model = wrap(base, config)
    try:
        yield model
    finally:
        model.unwrap()


def gap_closed(readings: dict[str, Reading]) -> float | None:
    """The share of the loss between window + sinks and full attention that learning makes up; 1 is all of it.

    None where there is no gap: beyond its trained length, full attention may be the worse.
    """
    gap = readings[SINKS].mean - readings[FULL].mean
    return (readings[SINKS].mean - readings[TTT].mean) / gap if gap > 0 else None


@contextmanager
def progress_bars(names: list[str], tokens: int, title: str = "") -> Iterator[dict[str, Advance]]:
    """One bar with time left for each name, on stderr; each is advanced by the tokens just read."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:

        def bar(name: str) -> Advance:
            task = progress.add_task(f"{title}: {name}" if title else name, total=tokens, start=False)

            def advance(read: int) -> None:
                progress.start_task(task)  # the clock of each starts when its turn comes
                progress.advance(task, read)

            return advance

        yield {name: bar(name) for name in names}
