"""What does a context cost as it grows? Time to read, time per token, bytes kept and bytes at the peak, by its length.

Every row is measured in a process of its own; systems take turns at every length. Lengths beyond those are extrapolated
from what is fitted to the rows, and marked. A row that was measured with the same settings on this machine is kept, so
a run that was cut off goes on where it stopped. No text is long enough to fill eight long rows; texts are repeated,
which costs the same.

    python -m benchmarks.context_length            # up to 32,768 tokens; eight rows up to 8,192
    python -m benchmarks.context_length --quick    # up to 4,096; eight rows up to 2,048
"""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.config import PRESETS

from .context_length_report import draw, report
from .cost import PeakMeter, ask, limit_memory, timed
from .measure import FULL, SINKS, TTT
from .models import model_directory
from .results import kept_rows, machine, save
from .texts import text

NAME = "context_length"
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
    device = torch.device(options.device)
    directory = model_directory(options.model)
    model = AutoModelForCausalLM.from_pretrained(directory).eval().to(device)
    if system != FULL:
        model = wrap(model, config_of(system, options.window))
    ids = rows_of(AutoTokenizer.from_pretrained(directory)(text(options.text)).input_ids, batch, length).to(device)
    read(model, system, ids[:, :WARM_UP])
    meter = PeakMeter(device)
    seconds, cache = timed(device, lambda: read(model, system, ids))
    peak, retained = meter.bytes(), state_bytes(cache)
    token, _ = timed(device, partial(decode, model, ids[:, -1:], cache, options.decoded))
    del cache
    reads = [seconds]
    for _ in range(min(READS, READ_TOKENS // (batch * length)) - 1):
        reads.append(timed(device, lambda: read(model, system, ids))[0])
    return {
        "read": min(reads),
        "token": token / options.decoded,
        "retained": retained,
        "peak": peak,
        "reads": reads,
        "load_average": round(os.getloadavg()[0], 2),
    }


def rows_of(ids: list[int], batch: int, length: int) -> Tensor:
    """(B, T): one row after the other from a text that is repeated as often as it takes."""
    return torch.tensor(ids).repeat(-(-batch * length // len(ids)))[: batch * length].view(batch, length)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--longest", type=int, default=32768, help="tokens that are measured, batch 1")
    parser.add_argument("--longest-batched", type=int, default=8192, help="the same for each row of batch 8")
    parser.add_argument("--decoded", type=int, default=256, help="tokens; as many as a chunk has include one update")
    parser.add_argument("--text", default="pride-and-prejudice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("SYSTEM", "BATCH", "TOKENS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        system, batch, length = options.one
        if options.device == "cpu":
            limit_memory()
        print(json.dumps(measure(system, int(batch), int(length), options)))
        return
    if options.quick:
        options.longest, options.longest_batched, options.decoded = 4096, 2048, 32
    if options.window + TTTConfig().chunk_size > LENGTHS[0]:
        raise SystemExit(
            f"--window {options.window}: at most {LENGTHS[0] - TTTConfig().chunk_size}, so that all are full."
        )

    names = ("model", "window", "decoded", "text", "device")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names}
    name = NAME + ("_quick" if options.quick else "")
    given = [f"--{option}={value}" for option, value in settings.items()]
    settings |= {"presets": PRESETS, "reads": READS, "read_tokens": READ_TOKENS}
    rows, console = kept_rows(name, settings), Console()
    stored: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}
    limits = dict(zip(BATCHES, (options.longest, options.longest_batched)))
    model_directory(options.model)  # fetched once, before any row needs it
    for batch, limit in limits.items():
        for length in (length for length in LENGTHS if length <= limit):
            for system in SYSTEMS:
                row = key(system, batch, length)
                if row in rows:
                    continue
                console.print(f"{row} …", markup=False)
                rows[row] = ask(f"benchmarks.{NAME}", ["--one", system, str(batch), str(length), *given])
                save(name, stored, ["Not finished."])
    measured = {
        batch: {system: {n: rows[key(system, batch, n)] for n in LENGTHS if n <= limit} for system in SYSTEMS}
        for batch, limit in limits.items()
    }
    lines, derived = report(measured, LENGTHS, settings)
    directory = save(name, stored | derived, lines)
    for batch in BATCHES:
        draw(measured[batch], LENGTHS, directory / f"{name}_batch_{batch}.png", f"{options.model}, batch {batch}")
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
