"""Does learning while reading make up for the window? Loss by position on texts that chose nothing.

One pass of the longest length gives every shorter one too, for all systems are causal. At the first length the question
is how much of the gap between window + sinks and full attention is closed; at the longest, beyond the length the model
was trained for, whether the converted model is the better one.

    python -m benchmarks.perplexity_by_position            # 8,192 and 16,384 tokens of each test text
    python -m benchmarks.perplexity_by_position --quick    # 2,048 tokens, to see that it runs
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import TTTConfig
from ttt_retrofit.config import PRESETS

from .measure import FULL, SINKS, TTT, Reading, converted, full_attention, progress_bars, streaming
from .models import model_directory
from .plots import loss_by_position
from .results import machine, markdown_table, save
from .texts import text

NAME = "perplexity_by_position"
TEXTS = ("persuasion", "emma", "python-tutorial", "turtle")  # two novels, documentation, code


def read_all(base: Any, ids: torch.Tensor, window: int, sinks: int, title: str) -> dict[str, Reading]:
    """Full attention, window + sinks, and window + sinks + TTT under each preset, over one text."""
    systems = [FULL, SINKS, *PRESETS]
    readings = {}
    with progress_bars(systems, ids.numel(), title) as bars:
        readings[FULL] = full_attention(base, ids, bars[FULL])
        for name in systems[1:]:
            config = TTTConfig.preset("default" if name == SINKS else name, sliding_window=window, sink_tokens=sinks)
            if name == SINKS:
                config = replace(config, learn_from="none")
            with converted(base, config) as model:
                readings[name] = streaming(model, ids, bars[name])
    return readings


def summary(readings: dict[str, Reading], length: int) -> dict[str, dict[str, Any]]:
    """Loss of the first `length` tokens, and of the last quarter of them, for each system."""
    rows = {}
    for name, reading in readings.items():
        losses = reading.losses[: length - 1]
        rows[name] = {
            "mean": losses.mean().item(),
            "quarters": [part.mean().item() for part in losses.tensor_split(4)],
        }
    return rows


def judge(texts: dict[str, dict[str, dict[str, Any]]], preset: str) -> dict[str, Any]:
    """The figures the project promises, for one preset at one length."""
    gap = statistics.fmean(rows[SINKS]["mean"] - rows[FULL]["mean"] for rows in texts.values())
    won = statistics.fmean(rows[SINKS]["mean"] - rows[preset]["mean"] for rows in texts.values())
    return {
        "gap_closed_on_the_mean_of_texts": won / gap if gap > 0 else None,
        "last_quarter_below_window_and_sinks_on_every_text": all(
            rows[preset]["quarters"][3] < rows[SINKS]["quarters"][3] for rows in texts.values()
        ),
        "below_full_attention_on_every_text": all(rows[preset]["mean"] < rows[FULL]["mean"] for rows in texts.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 16384])
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--texts", nargs="+", default=list(TEXTS))
    parser.add_argument("--quick", action="store_true", help="2,048 tokens of each text")
    options = parser.parse_args()
    lengths = [2048] if options.quick else sorted(options.lengths)

    console = Console()
    directory = model_directory(options.model)
    base = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    readings = {}
    for name in options.texts:
        ids = tokenizer(text(name), return_tensors="pt").input_ids[:, : lengths[-1]]
        if ids.shape[1] < lengths[-1]:
            raise SystemExit(f"{name} has {ids.shape[1]} tokens, {lengths[-1]} are needed. Choose other --texts.")
        readings[name] = read_all(base, ids, options.window, options.sinks, name)

    report: dict[str, Any] = {"settings": vars(options) | {"presets": PRESETS}, "machine": machine(), "lengths": {}}
    lines = [f"{options.model}, window {options.window}, {options.sinks} sinks. Nats per token.", ""]
    for length in lengths:
        texts = {name: summary(systems, length) for name, systems in readings.items()}
        verdicts = {preset: judge(texts, preset) for preset in PRESETS}
        report["lengths"][length] = {"texts": texts, "verdicts": verdicts}
        rows = []
        for name, systems in texts.items():
            for system, values in systems.items():
                label = system if system in (FULL, SINKS) else f"{SINKS} + TTT ({system})"
                rows.append([name, label, f"{values['mean']:.4f}", *(f"{loss:.3f}" for loss in values["quarters"])])
        header = ["text", "system", "mean", "1st quarter", "2nd", "3rd", "last"]
        lines += [f"### {length:,} tokens", "", *markdown_table(header, rows), ""]
        for preset, verdict in verdicts.items():
            closed = verdict["gap_closed_on_the_mean_of_texts"]
            lines.append(
                f"- {preset}: gap closed on the mean of the texts "
                + ("n/a (window + sinks is already below full attention)" if closed is None else f"**{closed:.0%}**")
                + f"; last quarter below window + sinks on every text: "
                f"{verdict['last_quarter_below_window_and_sinks_on_every_text']}; below full attention on every text: "
                f"{verdict['below_full_attention_on_every_text']}"
            )
        lines.append("")
    directory = save(NAME, report, lines)
    for name, systems in readings.items():
        drawn = {FULL: systems[FULL], SINKS: systems[SINKS], TTT: systems["default"]}
        loss_by_position(drawn, directory / f"{NAME}_{name}.png", title=name, window=options.window)
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
