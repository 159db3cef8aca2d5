"""What does learning while reading cost? Time as ratios of runs that took turns, state in bytes.

python -m benchmarks.speed_and_memory           # reads up to 32,768 tokens
python -m benchmarks.speed_and_memory --quick   # up to 4,096
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, MistralConfig, MistralForCausalLM

from ttt_retrofit import TTTConfig
from ttt_retrofit.config import PRESETS

from .arithmetic import count
from .measure import converted
from .models import model_directory
from .results import machine, markdown_table, save
from .texts import text

NAME = "speed_and_memory"
DECODED = 64  # tokens
PROMISED = {"default": 2.5, "fast": 1.6}


def windowed_twin(base: Any, window: int) -> MistralForCausalLM:
    """The same weights in transformers' own sliding-window class, which is Llama's plus the window: nothing wrapped."""
    shared = base.config.to_dict()
    drop = ("model_type", "architectures", "layer_types", "pretraining_tp", "attention_bias", "mlp_bias")
    config = MistralConfig(
        **{key: value for key, value in shared.items() if key not in drop} | {"sliding_window": window}
    )
    twin = MistralForCausalLM(config).eval()
    twin.load_state_dict(base.state_dict())
    return twin


def read(model: Any, ids: torch.Tensor, chunk: int, cache: Any = None, **kwargs: Any) -> tuple[float, Any]:
    """Seconds to get the logits of every token, `chunk` tokens a call; and the cache."""
    began = time.perf_counter()
    with torch.no_grad():
        for start in range(0, ids.shape[1], chunk):
            out = model(input_ids=ids[:, start : start + chunk], past_key_values=cache, use_cache=True, **kwargs)
            cache = out.past_key_values
    return time.perf_counter() - began, cache


def decode(model: Any, token: torch.Tensor, cache: Any, **kwargs: Any) -> float:
    """Seconds for `DECODED` greedy tokens, one call each."""
    began = time.perf_counter()
    with torch.no_grad():
        for _ in range(DECODED):
            out = model(input_ids=token, past_key_values=cache, use_cache=True, **kwargs)
            cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
    return time.perf_counter() - began


def take_turns(runs: dict[str, Callable[[], float]], repeats: int, what: str) -> dict[str, list[float]]:
    """Seconds of each run; they alternate, so that whatever slows the machine slows them all."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in track(range(repeats), description=what):
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, to: str) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to]))


def reading_times(base: Any, ids: torch.Tensor, window: int, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Un-wrapped against wrapped without learning, and without learning against each preset."""
    twin = windowed_twin(base, window)
    chunk = TTTConfig().chunk_size
    results = {}
    plain = TTTConfig(sliding_window=window, sink_tokens=0, learn_from="none")
    with converted(base, plain) as model:
        results["overhead"] = take_turns(
            {
                "un-wrapped": lambda: read(twin, ids, chunk, DynamicCache(config=twin.config))[0],
                "wrapped, not learning": lambda: read(model, ids, chunk)[0],
            },
            repeats,
            "wrapped against un-wrapped",
        )
    for preset in PRESETS:
        config = TTTConfig.preset(preset, sliding_window=window)
        with converted(base, config) as model:
            results[preset] = take_turns(
                {
                    "not learning": lambda model=model: read(model, ids, chunk, learn_from="none")[0],
                    "learning": lambda model=model: read(model, ids, chunk)[0],
                },
                repeats,
                f"learning, preset {preset}",
            )
    return results


def decoding_times(base: Any, ids: torch.Tensor, window: int, repeats: int) -> dict[str, list[float]]:
    """Decoding un-wrapped, and wrapped with fast weights that have learned, between two updates."""
    twin = windowed_twin(base, window)
    config = TTTConfig(sliding_window=window)
    token = ids[:, -1:]
    whole = ids[:, : ids.shape[1] // config.chunk_size * config.chunk_size]
    with converted(base, config) as model:

        def unwrapped() -> float:
            _, cache = read(twin, whole, config.chunk_size, DynamicCache(config=twin.config))
            return decode(twin, token, cache)

        def wrapped() -> float:
            _, cache = read(model, whole, config.chunk_size)
            return decode(model, token, cache)

        return take_turns({"un-wrapped": unwrapped, "learned": wrapped}, repeats, "decoding")


def long_read(base: Any, ids: torch.Tensor, window: int) -> dict[str, dict[str, Any]]:
    """Seconds over the whole text and state bytes on the way: full attention in one pass, and each preset."""
    marks = [1024 * 2**power for power in range(20) if 1024 * 2**power <= ids.shape[1]]
    rows: dict[str, dict[str, Any]] = {}
    began = time.perf_counter()
    with torch.no_grad():
        # As `generate` prefills: one pass, the logits of the last token only. Nothing about it is made slower.
        cache = base(input_ids=ids, past_key_values=DynamicCache(config=base.config), logits_to_keep=1).past_key_values
    seconds = time.perf_counter() - began
    per_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) // ids.shape[1]
    rows["full attention"] = {"seconds": seconds, "state_bytes": {mark: per_token * mark for mark in marks}}
    del cache
    for name, config in {
        "window + sinks": TTTConfig(sliding_window=window, learn_from="none"),
        **{f"window + sinks + TTT ({preset})": TTTConfig.preset(preset, sliding_window=window) for preset in PRESETS},
    }.items():
        with converted(base, config) as model:
            state, seconds, done, cache = {}, 0.0, 0, None
            for mark in track(marks, description=name):
                began = time.perf_counter()
                cache = model.read(ids[:, done:mark], past_key_values=cache)
                seconds += time.perf_counter() - began
                done, state[mark] = mark, cache.nbytes
            rows[name] = {"seconds": seconds, "state_bytes": state}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096, help="of the repeated reads")
    parser.add_argument("--long", type=int, default=32768, help="of the long read")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--text", default="pride-and-prejudice")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.long, options.repeats = 1024, 4096, 2

    directory = model_directory(options.model)
    base = AutoModelForCausalLM.from_pretrained(directory).eval()
    ids = AutoTokenizer.from_pretrained(directory)(text(options.text), return_tensors="pt").input_ids[:, : options.long]
    reading = reading_times(base, ids[:, : options.tokens], options.window, options.repeats)
    decoding = decoding_times(base, ids[:, :2048], options.window, options.repeats)
    long = long_read(base, ids, options.window)

    limits = {p: count(base, TTTConfig.preset(p, sliding_window=options.window)).ratio for p in PRESETS}
    overhead = ratio(reading["overhead"], "wrapped, not learning", "un-wrapped")
    decoded = ratio(decoding, "learned", "un-wrapped")
    learning = []
    for preset in PRESETS:
        measured, limit = ratio(reading[preset], "learning", "not learning"), limits[preset]
        learning.append(
            [
                f"learning ({preset}) / not learning",
                f"{measured:.2f}x; arithmetic limit {limit:.2f}x, measured / limit {measured / limit:.2f}",
                f"{PROMISED[preset]}x; 1.15 of the limit",
            ]
        )
    lines = [
        f"{options.model}, window {options.window}, reads of {options.tokens:,} tokens, "
        f"medians of {options.repeats} turns.",
        "",
        *markdown_table(
            ["what", "measured", "promised"],
            [
                ["wrapped, not learning / un-wrapped", f"{overhead:.3f}x", "1.03x"],
                *learning,
                ["decoding between updates / un-wrapped", f"{decoded:.3f}x", "1.05x"],
            ],
        ),
        "",
        f"### A read of {options.long:,} tokens",
        "",
    ]
    full = long["full attention"]
    rows = []
    for name, row in long.items():
        sizes = list(row["state_bytes"].values())
        rows.append(
            [name, f"{row['seconds']:.0f}", f"{full['seconds'] / row['seconds']:.2f}x", f"{sizes[0] / 2**20:.0f}",
             f"{sizes[-1] / 2**20:.0f}", f"{sizes[-1] / sizes[0]:.1f}x"]
        )  # fmt: skip
    first, last = (f"{n // 1024}K" for n in (min(full["state_bytes"]), max(full["state_bytes"])))
    lines += [
        *markdown_table(
            ["system", "seconds", "faster than full", f"state at {first}, MiB", f"at {last}, MiB", "growth"], rows
        ),
        "",
    ]
    report = {
        "settings": vars(options) | {"presets": PRESETS, "decoded": DECODED},
        "machine": machine(),
        "reading_seconds": reading,
        "decoding_seconds": decoding,
        "arithmetic_limits": limits,
        "long": long,
    }
    save(NAME, report, lines)
    Console().print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
