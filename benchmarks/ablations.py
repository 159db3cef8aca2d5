"""Loss against time for every choice there is to make: where the presets come from. Tuning texts only.

Each setting reads the tuning texts; it is judged by the share of the gap between window + sinks and full attention that
it closes on their mean, and by its time relative to reading without learning. A setting with another window or other
sinks is held against reading without learning under those. Finished settings are kept in `results/ablations.json` and
not measured again, so an interrupted run goes on where it stopped.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --quick      # 2,048 tokens under both presets
    python -m benchmarks.ablations --only default fast
    python -m benchmarks.ablations --model qwen2.5-0.5b --tokens 2048 --only default "lr 5e-4" "sgd, lr 2"

Another model's results are kept in a file of their own; other tokens or another window are refused there.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ttt_retrofit import TTTConfig
from ttt_retrofit.config import PRESETS

from .arithmetic import count
from .harness.loading import base_model, ids_of
from .harness.options import command_line, stored_as
from .harness.store import Store
from .harness.tables import markdown_table
from .measure import FULL, SINKS, Reading, converted, full_attention, progress_bars, streaming
from .plots import settings_by_gap

NAME = "ablations"
MODEL = "smollm2-135m"
TEXTS = ("northanger-abbey", "pydoc-topics", "inspect")
SKIPPED = 4096  # tokens left out at the start of each text: title pages, licences, tables of contents

GATED = ("gate", "up", "down")
# What differs from the default in each setting.
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "fast": PRESETS["fast"],
    "all layers, lr 3e-4": {"layers": "all", "inner_lr": 3e-4},
    "all layers, lr 3e-4, chunk 512": {"layers": "all", "inner_lr": 3e-4, "chunk_size": 512},
    "third quarter, lr 8e-4": {"layers": "third_quarter", "inner_lr": 8e-4},
    "layers 22 to 27, lr 8e-4": {"layers": tuple(range(22, 28)), "inner_lr": 8e-4},
    "upper, gate, up and down, lr 7e-4": {"layers": "upper", "target_modules": GATED, "inner_lr": 7e-4},
    "last quarter, lr 5e-4": {"layers": "last_quarter", "inner_lr": 5e-4},
    "last quarter, lr 1e-3": {"layers": "last_quarter", "inner_lr": 1e-3},
    "chunk 512, lr 5e-4": {"chunk_size": 512, "inner_lr": 5e-4},
    "chunk 128, lr 3.5e-4": {"chunk_size": 128, "inner_lr": 3.5e-4},
    "lr 2.5e-4": {"inner_lr": 2.5e-4},
    "lr 5e-4": {"inner_lr": 5e-4},
    "lr 1e-3": {"inner_lr": 1e-3},
    "gate, up and down, lr 2.5e-4": {"target_modules": GATED, "inner_lr": 2.5e-4},
    "lora, rank 16, lr 4e-3": {"fast_weights": "lora", "rank": 16, "inner_lr": 4e-3},
    "lora, rank 64, lr 2e-3": {"fast_weights": "lora", "rank": 64, "inner_lr": 2e-3},
    "prime, width 128, lr 2e-3": {"fast_weights": "prime", "rank": 128, "inner_lr": 2e-3},
    "small": PRESETS["small"],
    "subspace, rank 64": {"fast_weights": "subspace", "rank": 64},
    "accelerator": PRESETS["accelerator"],
    "small, rank 256": PRESETS["small"] | {"rank": 256},
    "normalized sgd": {"inner_optimizer": "normalized_sgd"},
    "muon, lr 5e-3": {"inner_optimizer": "muon", "inner_lr": 5e-3},
    "sgd, lr 0.1": {"inner_optimizer": "sgd", "inner_lr": 0.1},
    "sgd, lr 1": {"inner_optimizer": "sgd", "inner_lr": 1.0},
    "sgd, lr 2": {"inner_optimizer": "sgd", "inner_lr": 2.0},
    "sgd, lr 4": {"inner_optimizer": "sgd", "inner_lr": 4.0},
    "in-place rule, sgd, lr 1e-5": {"inner_rule": "in_place", "inner_optimizer": "sgd", "inner_lr": 1e-5},
    "in-place rule, sgd, lr 1e-4": {"inner_rule": "in_place", "inner_optimizer": "sgd", "inner_lr": 1e-4},
    "trust region 0.01, lr 5e-4": {"max_relative_update": 0.01, "inner_lr": 5e-4},
    "window 256": {"sliding_window": 256},
    "window 1024": {"sliding_window": 1024},
    "no sinks": {"sink_tokens": 0},
    "16 sinks": {"sink_tokens": 16},
}
QUICK_TOKENS, QUICK_ONLY = 2048, ("default", "fast")


def load_texts(model: str, tokens: int) -> dict[str, torch.Tensor]:
    return {name: ids_of(model, name)[None, SKIPPED : SKIPPED + tokens] for name in TEXTS}


def read_setting(base: Any, texts: dict[str, torch.Tensor], config: TTTConfig | None, title: str) -> dict[str, Any]:
    """Mean loss and seconds of each text; full attention where there is no configuration."""
    readings: dict[str, Reading] = {}
    with progress_bars(list(texts), next(iter(texts.values())).numel(), title) as bars:
        for name, ids in texts.items():
            if config is None:
                readings[name] = full_attention(base, ids, bars[name])
            else:
                with converted(base, config) as model:
                    readings[name] = streaming(model, ids, bars[name])
    return {
        "loss": {name: reading.mean for name, reading in readings.items()},
        "last_quarter": {name: reading.by_quarter[3] for name, reading in readings.items()},
        "seconds": sum(reading.seconds for reading in readings.values()),
        "state_bytes": max(reading.state_bytes for reading in readings.values()),
    }


def _config_of(row: dict[str, Any]) -> TTTConfig | None:
    """How a stored row was read; settings that are newer than the row had their defaults."""
    return None if row["config"] is None else TTTConfig.from_dict(row["config"])


def gap_closed(rows: dict[str, Any], name: str, which: str = "loss") -> float:
    """Between full attention and reading with the setting's window and sinks, not learning."""
    row, full, control = rows[name], rows[FULL], rows[rows[name].get("control", SINKS)]
    gap = statistics.fmean(control[which][text] - full[which][text] for text in TEXTS)
    return statistics.fmean(control[which][text] - row[which][text] for text in TEXTS) / gap


def settings_and_controls(only: list[str], window: int) -> dict[str, TTTConfig | None]:
    """How each row reads; before a setting the one that it is held against, full attention first."""
    found: dict[str, TTTConfig | None] = {FULL: None, SINKS: TTTConfig(sliding_window=window, learn_from="none")}
    for name in only:
        config = TTTConfig(**{"sliding_window": window} | SETTINGS[name])
        found[control_of(config, window)] = replace(found[SINKS], **_attention(config))  # type: ignore[type-var]
        found[name] = config
    return found


def _attention(config: TTTConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window, "sink_tokens": config.sink_tokens}


def control_of(config: TTTConfig, window: int) -> str:
    """The name of the row with the same window and sinks that does not learn."""
    if _attention(config) == _attention(TTTConfig(sliding_window=window)):
        return SINKS
    return f"not learning, window {config.sliding_window}, {config.sink_tokens} sinks"


def plot(report: dict[str, Any], path: Path) -> None:
    rows, settings = report["rows"], report["settings"]
    points = {n: (r["relative_time"], gap_closed(rows, n)) for n, r in rows.items() if r["limit"] is not None}
    title = (
        f"Gap closed and time of {len(points)} settings ({settings['model']}, {len(settings['texts'])} tuning texts of "
        f"{settings['tokens']:,} tokens)"
    )
    settings_by_gap(points, ("default", "fast"), path, title)


def main(arguments: list[str] | None = None) -> None:
    quick = f"{QUICK_TOKENS:,} tokens, {' and '.join(QUICK_ONLY)}"
    parser = command_line(__doc__, model=MODEL, quick=quick, full=True)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS))
    options = parser.parse_args(arguments)
    tokens = QUICK_TOKENS if options.quick else options.tokens
    only = options.only or list(QUICK_ONLY if options.quick else SETTINGS)
    settings = {"model": options.model, "tokens": tokens, "window": options.window, "texts": list(TEXTS)}

    base, texts = base_model(options.model), load_texts(options.model, tokens)
    special = [] if options.model == MODEL else [options.model]
    store = Store.of_all(stored_as(NAME, *special, quick=options.quick), settings, table)
    rows = store.rows
    wanted = settings_and_controls(only, options.window)
    for name, config in wanted.items():
        if name in rows and _config_of(rows[name]) == config:
            continue
        # Read without learning beside each setting: a ratio within one stretch of time, whatever else runs.
        row = read_setting(base, texts, config, name)
        idle = read_setting(base, {TEXTS[0]: texts[TEXTS[0]]}, wanted[SINKS], "window + sinks, for comparison")
        row["relative_time"] = row["seconds"] / (idle["seconds"] * len(TEXTS))
        row["limit"] = None if config is None or config.learn_from == "none" else count(base, config).ratio
        row["control"] = SINKS if config is None else control_of(config, options.window)
        store.add({name: row | {"config": None if config is None else config.to_dict()}})
    plot(store.report, store.save() / f"{store.name}.png")
    store.show()


def table(report: dict[str, Any]) -> list[str]:
    rows, settings = report["rows"], report["settings"]
    intro = (
        f"{settings['model']}, {settings['tokens']:,} tokens each of {', '.join(settings['texts'])} (tuning texts), "
        f"window {settings['window']}, 4 sinks. Settings differ from the default in what they name; gaps are to "
        "reading without learning with the same window and sinks."
    )
    if SINKS not in rows:
        return [intro]
    body = [
        [
            name,
            f"{statistics.fmean(row['loss'].values()):.4f}",
            f"{gap_closed(rows, name):.0%}",
            f"{gap_closed(rows, name, 'last_quarter'):.0%}",
            f"{row['relative_time']:.2f}x",
            "" if row["limit"] is None else f"{row['limit']:.2f}x",
            f"{row['state_bytes'] / 2**20:.0f}",
        ]
        for name, row in rows.items()
    ]
    header = ["setting", "nats/token", "gap closed", "in the last quarter", "time", "arithmetic limit", "state, MiB"]
    return [intro, "", *markdown_table(header, body), ""]


if __name__ == "__main__":
    main()
