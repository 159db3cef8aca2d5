"""What wrapping and learning cost, in units of the same without: python -m benchmarks.cost_ratios overhead ...

Runs take turns, so that whatever slows the machine slows them all; what counts is the median of the ratios within each
turn. Seconds as JSON; `speed_and_memory` asks for one part after the other.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from ttt_retrofit import TTTConfig

from .arithmetic import count
from .harness.costs import timed
from .harness.options import command_line
from .harness.tables import markdown_table
from .measure import PRESETS, converted
from .timed_models import in_words, loaded, token_ids

OVERHEAD, DECODING = "overhead", "decoding"
LEARNING = {f"learning, {preset}": preset for preset in PRESETS}
PARTS = (OVERHEAD, *LEARNING, DECODING)
READ_BEFORE, DECODED = 2048, 64  # tokens
PROMISED = {"default": 2.5, "fast": 1.6}
Seconds = dict[str, list[float]]


def windowed_twin(base: Any, window: int) -> MistralForCausalLM:
    """The same weights in transformers' own sliding-window class, which is Llama's plus the window: nothing wrapped."""
    shared = base.config.to_dict()
    drop = ("model_type", "architectures", "layer_types", "pretraining_tp", "attention_bias", "mlp_bias")
    config = MistralConfig(
        **{key: value for key, value in shared.items() if key not in drop} | {"sliding_window": window}
    )
    with base.device:
        twin = AutoModelForCausalLM.from_config(config, dtype=base.dtype).eval()
    twin.load_state_dict(base.state_dict(), assign=True)
    return twin


@torch.no_grad()
def read(model: Any, ids: torch.Tensor, chunk: int, **kwargs: Any) -> Any:
    """The cache, after the logits of every token, `chunk` tokens a call."""
    cache = None
    for start in range(0, ids.shape[1], chunk):
        out = model(input_ids=ids[:, start : start + chunk], past_key_values=cache, use_cache=True, **kwargs)
        cache = out.past_key_values
    return cache


def timed_read(model: Any, ids: torch.Tensor, chunk: int, **kwargs: Any) -> Callable[[], float]:
    """A run of `read`, which tells its seconds."""
    return lambda: timed(model.device, lambda: read(model, ids, chunk, **kwargs))[0]


@torch.no_grad()
def decode(model: Any, token: torch.Tensor, cache: Any) -> None:
    """`DECODED` greedy tokens, one call each."""
    for _ in range(DECODED):
        out = model(input_ids=token, past_key_values=cache, use_cache=True)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)


def timed_decoding(model: Any, ids: torch.Tensor, token: torch.Tensor, chunk: int) -> Callable[[], float]:
    """A run of `decode` behind a read, which tells its own seconds."""

    def run() -> float:
        cache = read(model, ids, chunk)
        return timed(model.device, lambda: decode(model, token, cache))[0]

    return run


def take_turns(runs: dict[str, Callable[[], float]], turns: int, what: str) -> Seconds:
    seconds: Seconds = {name: [] for name in runs}
    for _ in track(range(turns), description=what, console=Console(file=sys.stderr)):
        for name, run in runs.items():
            seconds[name].append(run())
    return seconds


def ratio(seconds: Seconds, name: str, to: str) -> float:
    """The median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[to]))


def overhead(base: Any, ids: torch.Tensor, window: int, turns: int) -> Seconds:
    """Un-wrapped against wrapped without learning, each in the form that has no sinks."""
    twin, chunk = windowed_twin(base, window), TTTConfig().chunk_size
    with converted(base, TTTConfig(sliding_window=window, sink_tokens=0, learn_from="none")) as model:
        runs = {"un-wrapped": timed_read(twin, ids, chunk), "wrapped, not learning": timed_read(model, ids, chunk)}
        return take_turns(runs, turns, OVERHEAD)


def learning(preset: str, base: Any, ids: torch.Tensor, window: int, turns: int) -> Seconds:
    """Without learning against learning."""
    config = TTTConfig.preset(preset, sliding_window=window)
    with converted(base, config) as model:
        runs = {
            "not learning": timed_read(model, ids, config.chunk_size, learn_from="none"),
            "learning": timed_read(model, ids, config.chunk_size),
        }
        return take_turns(runs, turns, f"learning, preset {preset}")


def decoding(base: Any, ids: torch.Tensor, window: int, turns: int) -> Seconds:
    """Un-wrapped against wrapped with fast weights that have learned, between two updates."""
    twin, config = windowed_twin(base, window), TTTConfig(sliding_window=window)
    ids = ids[:, :READ_BEFORE]
    token, whole = ids[:, -1:], ids[:, : ids.shape[1] // config.chunk_size * config.chunk_size]
    with converted(base, config) as model:
        runs = {
            "un-wrapped": timed_decoding(twin, whole, token, config.chunk_size),
            "learned": timed_decoding(model, whole, token, config.chunk_size),
        }
        return take_turns(runs, turns, DECODING)


RUNS = {OVERHEAD: overhead, DECODING: decoding} | {part: partial(learning, preset) for part, preset in LEARNING.items()}


def report(rows: dict[str, dict[str, Any]], settings: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """The lines of the page, and the ratios, of seconds by part; a part that could not run says why."""
    found: dict[str, float] = {}
    table = []

    def add(part: str, what: str, name: str, to: str, promised: str, limit: float | None = None) -> None:
        if "failed" in rows[part]:
            table.append([what, f"cannot run: {rows[part]['failed']}", promised])
            return
        found[part] = ratio(rows[part]["seconds"], name, to)
        beside = "" if limit is None else f"; arithmetic limit {limit:.2f}x, measured / limit {found[part] / limit:.2f}"
        table.append([what, f"{found[part]:.{3 if limit is None else 2}f}x{beside}", promised])

    add(OVERHEAD, "wrapped, not learning / un-wrapped", "wrapped, not learning", "un-wrapped", "1.03x")
    for part, preset in LEARNING.items():
        promised = f"{PROMISED[preset]}x; 1.15 of the limit"
        add(part, f"learning ({preset}) / not learning", "learning", "not learning", promised, rows[part].get("limit"))
    add(DECODING, "decoding between updates / un-wrapped", "learned", "un-wrapped", "1.05x")
    intro = (
        f"{in_words(settings['model'])}, window {settings['window']}. In turns: reads of {settings['tokens']:,} "
        f"tokens, medians of {settings['turns']}."
    )
    return [intro, "", *markdown_table(["what", "measured", "promised"], table), ""], found


def row(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = command_line(__doc__)
    parser.add_argument("part", choices=PARTS)
    for name in ("model", "text", "device"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("window", "tokens", "turns"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    base = loaded(options.model, options.device)
    ids = token_ids(options.model, options.text)[None, : options.tokens].to(base.device)
    found: dict[str, Any] = {"seconds": RUNS[options.part](base, ids, options.window, options.turns)}
    if options.part in LEARNING:
        found["limit"] = count(base, TTTConfig.preset(LEARNING[options.part], sliding_window=options.window)).ratio
    return found


if __name__ == "__main__":
    print(json.dumps(row()))
