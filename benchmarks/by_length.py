"""One row of costs by length of the context: python -m benchmarks.by_length "window + sinks" 8 2048 ...

Seconds to read, seconds per token after it, bytes retained and at the peak, as JSON; `speed_and_memory` asks for one
after the other. No text is long enough to fill eight long rows; texts are repeated, which costs the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ttt_retrofit import TTTConfig

from .harness.costs import limit_memory, of_reading
from .harness.options import command_line
from .measure import FULL, PRESETS, SINKS, TTT, converted
from .timed_models import loaded, token_ids

SYSTEMS = (FULL, SINKS, *(f"{TTT} ({preset})" for preset in PRESETS))
LENGTHS = tuple(1024 * 2**power for power in range(12))  # 1K to 2M
BATCHES = (1, 8)
READS, READ_TOKENS = 3, 8192  # short reads are repeated, up to so often, while they have no more tokens together
WARM_UP = 64  # tokens; touches every weight, so that no row pays for loading them


def config_of(system: str, window: int) -> TTTConfig:
    if system == SINKS:
        return TTTConfig(sliding_window=window, learn_from="none")
    (preset,) = (name for name in PRESETS if system == f"{TTT} ({name})")
    return TTTConfig.preset(preset, sliding_window=window)


def measure(system: str, batch: int, length: int, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds to read and per token after it, bytes retained and at the peak: the fastest of a few reads."""
    base = loaded(options.model, options.device)
    ids = rows_of(token_ids(options.model, options.text), batch, length).to(base.device)
    with nullcontext(base) if system == FULL else converted(base, config_of(system, options.window)) as model:
        return costs(model, system, ids, options.decoded)


def costs(model: Any, system: str, ids: Tensor, decoded: int) -> dict[str, Any]:
    read(model, system, ids[:, :WARM_UP])
    found = of_reading(
        model.device,
        lambda: read(model, system, ids),
        lambda cache: decode(model, ids[:, -1:], cache, decoded),
        state_bytes,
        max(1, min(READS, READ_TOKENS // ids.numel())),
    )
    return found | {"token": found.pop("decoding") / decoded, "retained": found.pop("held")}


def rows_of(ids: Tensor, batch: int, length: int) -> Tensor:
    """(B, T): one row after the other from a text that is repeated as often as it takes."""
    return ids.repeat(-(-batch * length // len(ids)))[: batch * length].view(batch, length)


@torch.no_grad()
def read(model: Any, system: str, ids: Tensor) -> Any:
    """The cache after `ids` (B, T). Full attention reads as `generate` prefills: one pass, logits of the last token."""
    if system != FULL:
        return model.read(ids)
    empty = DynamicCache(config=model.config)
    return model(input_ids=ids, past_key_values=empty, use_cache=True, logits_to_keep=1).past_key_values


@torch.no_grad()
def decode(model: Any, token: Tensor, cache: Any, count: int) -> None:
    """`count` greedy tokens after `token` (B, 1); as many as a chunk has include one update."""
    for _ in range(count):
        token = model(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)


def state_bytes(cache: Any) -> int:
    if isinstance(cache, DynamicCache):
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return cache.nbytes


def key(system: str, batch: int, length: int) -> str:
    return f"{system}, batch {batch}, {length}"


def row(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = command_line(__doc__)
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("batch", type=int)
    parser.add_argument("length", type=int)
    for name in ("model", "text", "device"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("window", "decoded"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    if options.device == "cpu":
        limit_memory()
    return measure(options.system, options.batch, options.length, options)


if __name__ == "__main__":
    print(json.dumps(row()))
