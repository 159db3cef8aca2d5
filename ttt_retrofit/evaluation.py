"""Losses, time and state of one text under four ways of reading it, on the same weights.

The base under full attention is the reference for the others: a window alone, a window with sinks, and a window
with sinks whose fast weights learn. All report the loss of every token of the text, whatever the chunks.
T tokens, C tokens of one call, V vocabulary.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel

from .config import TTTConfig
from .errors import InputError, UnsupportedModelError
from .model.modeling import TTTMixin
from .streaming.cache import TTTCache

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
    state_by_call: tuple[tuple[int, int], ...] = ()  # after each call: tokens read so far, bytes carried

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
    UnsupportedModelError
        When the model is a converted one: `unwrap()` it first.
    InputError
        For fewer than 2 tokens.
    """
    if isinstance(model, TTTMixin):
        raise UnsupportedModelError(
            f"full_attention() measures a plain base, found {type(model).__name__}. Call unwrap() first."
        )
    cache: Any = DynamicCache(config=model.config)

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
    UnsupportedModelError
        When the model is not a converted one.
    InputError
        For fewer than 2 tokens.
    """
    if not isinstance(model, TTTMixin):
        raise UnsupportedModelError(
            f"streaming() measures a converted model, found {type(model).__name__}. Call wrap() first."
        )
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
        raise InputError(
            f"Found {ids.shape[1]} tokens, expected at least 2: the loss is on the next token. Give a longer text."
        )
    losses: list[Tensor] = []
    before: Tensor | None = None  # (1, V) logits that predict the first token of the next call
    seconds, read = 0.0, 0
    carried: list[tuple[int, int]] = []
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
        read += part.shape[1]
        carried.append((read, size(cache)))
        if advance is not None:
            advance(part.shape[1])
    return Reading(torch.cat(losses).cpu(), seconds, max(nbytes for _, nbytes in carried), tuple(carried))


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)  # kernels run on after the call that launched them
    return time.perf_counter()


def gap_closed(readings: dict[str, Reading]) -> float | None:
    """The share of the loss between window + sinks and full attention that learning makes up; 1 is all of it.

    None where there is no gap: beyond its trained length, full attention may be the worse.
    """
    gap = readings[SINKS].mean - readings[FULL].mean
    return (readings[SINKS].mean - readings[TTT].mean) / gap if gap > 0 else None
