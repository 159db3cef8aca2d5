"""What does a step of the outer loop cost? Seconds and peak memory, each form in a process of its own.

Plain fine-tuning of the same parameters over the same tokens is what the others are held against. `autograd` is the
whole read in one graph, with attention as plain matrix products: what one would write first.

A row that was measured with the same settings on this machine is kept, except those that failed.

    python -m benchmarks.outer_cost                  # 8,192 tokens, window 2,048, chunk 512
    python -m benchmarks.outer_cost --tokens 4096    # half of it, where autograd still fits into 24 GB
    python -m benchmarks.outer_cost --quick          # 1,536 tokens, window 512, chunk 256
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from functools import partial
from typing import Any

import torch

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.inner.inner_loop import next_token_losses
from ttt_retrofit.outer.chunks import by_double_backward
from ttt_retrofit.outer.gradients import outer_gradients, through_updates
from ttt_retrofit.outer.parameters import choose
from ttt_retrofit.streaming import window
from ttt_retrofit.streaming.attention import plain_attention
from ttt_retrofit.streaming.reading import Outer, Settings, read
from ttt_retrofit.streaming.tokens import align

from .harness.costs import PeakMeter, limit_memory, timed
from .harness.loading import base_model, ids_of
from .harness.machine import DEVICE
from .harness.options import command_line, stored_as
from .harness.processes import ask
from .harness.store import Store
from .harness.tables import markdown_table
from .models import model_directory

NAME = "outer_cost"
PLAIN = "none"
FORMS = {
    PLAIN: "plain fine-tuning",
    "none, recomputed": "plain fine-tuning, chunks recomputed in the backward pass",
    "first_order": "first order",
    "truncated": "truncated, 4 chunks",
    "exact": "exact, by differences",
    "exact, recomputed": "exact, by differences, √N states kept",
    "exact, double backward": "exact, by double backward in each chunk, tiled attention",
    "exact, double backward, plain": "exact, by double backward in each chunk, plain attention",
    "autograd": "exact, autograd over the whole read, plain attention",
}
PROMISED = {"exact": 2.0, "first_order": 1.2}  # times plain fine-tuning


def measure(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step, peak bytes above the loaded model, and the gradient's norm."""
    config = TTTConfig(sliding_window=options.window, chunk_size=options.chunk)
    model = wrap(base_model(options.model, torch.float32, DEVICE), config)
    outer = choose(model, ["start", "log_lr"])
    ids = ids_of(options.model, options.text)[None, : options.tokens].to(model.device)
    outer_gradients(model, outer, ids[:, : 2 * options.chunk], None, "first_order")  # warms up
    meter = PeakMeter(model.device)
    seconds, norm = zip(
        *(timed(model.device, partial(norm_of_step, form, model, outer, ids)) for _ in range(options.repeats))
    )
    return {
        "seconds": seconds,
        "bytes": meter.bytes(),
        "norm": norm[-1],
        "load_average": round(os.getloadavg()[0], 2),
    }


def norm_of_step(form: str, model: Any, outer: Any, ids: torch.Tensor) -> float:
    """Of the whole gradient, which goes when its norm is known."""
    return torch.stack([gradient.norm() for gradient in step(form, model, outer, ids)]).norm().item()


def step(form: str, model: Any, outer: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    tokens = align(ids, None, None)
    if form in ("autograd", "exact, double backward, plain"):
        window.tiled_attention = plain_attention  # type: ignore[attr-defined]
    if form == "autograd":
        losses = []
        settings = Settings(learn=True, outer=Outer(record=True, order=2))
        for segment in read(model, model.new_cache(), tokens, settings):
            part = ids[:, segment.starts[0] : segment.starts[0] + segment.taken[0]]
            losses.append(next_token_losses(segment.output.logits, part).mean())
        return list(torch.autograd.grad(torch.stack(losses).mean(), outer.all))
    if form.startswith("exact, double backward"):
        chunks = ids.shape[1] // model.ttt.chunk_size
        return list(through_updates(model, outer, tokens, chunks, by_double_backward).gradients.values())
    gradients, _, recomputed = form.partition(", ")
    outcome = outer_gradients(model, outer, ids, None, gradients, 4, rematerialise=bool(recomputed))  # type: ignore[arg-type]
    return list(outcome.gradients.values())


def page(report: dict[str, Any]) -> list[str]:
    settings = report["settings"]
    rows = {form: report["rows"][form] for form in FORMS if form in report["rows"]}
    plain, table = statistics.median(rows[PLAIN].get("seconds", [math.nan])), []
    for form, row in rows.items():
        if "failed" in row:
            table.append([FORMS[form], f"cannot run: {row['failed']}", "", "", ""])
            continue
        seconds = statistics.median(row["seconds"])
        promised = f"{PROMISED[form]}x" if form in PROMISED else ""
        peak = "-" if row["bytes"] is None else f"{row['bytes'] / 1e9:.2f}"
        table.append([FORMS[form], f"{seconds:.1f}", f"{seconds / plain:.2f}x", promised, peak])
    header = ["a step", "seconds", "of plain fine-tuning", "promised", "peak memory above the model, GB"]
    return [
        f"{settings['model']}, {settings['tokens']:,} tokens, window {settings['window']}, chunk {settings['chunk']}, "
        "default layers, float32.",
        "",
        *markdown_table(header, table),
        "",
    ]


def main() -> None:
    parser = command_line(__doc__, model="smollm2-135m", quick="1,536 tokens, window 512, chunk 256")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument("--chunk", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--text", default="northanger-abbey")
    parser.add_argument("--one", choices=list(FORMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.tokens, options.window, options.chunk, options.repeats = 1536, 512, 256, 1
    if options.one:
        if not torch.cuda.is_available():
            limit_memory()
        print(json.dumps(measure(options.one, options)))
        return

    settings = {name: getattr(options, name) for name in ("model", "tokens", "window", "chunk", "repeats", "text")}
    given = [f"--{name}={value}" for name, value in settings.items()]
    store = Store.of_machine(stored_as(NAME, options.tokens, quick=options.quick), settings, page)
    model_directory(options.model)  # fetched once, before any row needs it
    # Autograd may well run out of memory, which is a result.
    store.fill({form: partial(ask, f"benchmarks.{NAME}", [f"--one={form}", *given]) for form in FORMS})
    store.show()


if __name__ == "__main__":
    main()
