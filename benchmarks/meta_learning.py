"""Does a short meta-learning phase make updates worth more? Against plain fine-tuning with the same budget.

Every system is trained on the tuning texts, with the same steps over the same tokens and the same parameters, and read
with updates off and on over texts of other authors and kinds. Two questions: is what updates gain larger than for the
control (the interaction), and does the trained model with updates on end below the control with updates on.

Rows and weights of the same settings are kept, so that a run that was cut off goes on where it stopped, and a longer
read trains nothing. Losses do not depend on the machine, so rows of several stand in one table, which says so.

    python -m benchmarks.meta_learning --jobs 2        # three seeds; window 512; two rows at a time
    python -m benchmarks.meta_learning --setting sgd   # other fast weights, another inner optimizer
    python -m benchmarks.meta_learning --window 256
    python -m benchmarks.meta_learning --window 256 --tokens 16384 --texts anarchist-faq pydecimal
    python -m benchmarks.meta_learning --quick         # one seed, few steps, two texts: to see that it runs
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from ttt_retrofit.inner.layer import rates

from .harness.options import add_jobs, command_line, stored_as
from .meta_phase import add_options, in_words, measure, new_model, test_ids, train
from .meta_run import Log, Task, fill, trained_once, weights_directory
from .meta_tables import BASE, CONTROL, FULL, by_seed, tables

NAME = "meta_learning"
GRADIENTS = {CONTROL: "none", "first order": "first_order", "truncated": "truncated", "exact": "exact"}


def report_lines(rows: dict[str, Any], options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    systems = {BASE: {0: rows[BASE]}} | {system: by_seed(rows, system) for system in GRADIENTS}
    systems = {system: seeds for system, seeds in systems.items() if seeds}
    control_of = {system: CONTROL for system in systems if system not in (BASE, CONTROL) and CONTROL in systems}
    lines, compared = tables(systems, control_of, rows[FULL])
    return [in_words(options, f"{options.steps} steps"), "", *lines], compared


def main() -> None:
    parser = command_line(__doc__, quick="one seed, few steps: to see that it runs")
    add_options(parser)
    add_jobs(parser, "train")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--truncate-chunks", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=list(GRADIENTS), default=list(GRADIENTS))
    parser.add_argument("--checkpoint", type=Path, help="where to save the model of the last of --systems and --seeds")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.sequence, options.tokens = [0], 6, 1024, 2048
        options.texts = options.texts[:2]

    settings = {
        name: value for name, value in vars(options).items() if name not in ("seeds", "systems", "jobs", "checkpoint")
    }
    longer = [] if options.tokens == parser.get_default("tokens") else [options.tokens]
    name = stored_as(NAME, options.window, options.setting, *longer, quick=options.quick)
    kept = weights_directory(NAME, settings)

    def tasks(rows: dict[str, Any]) -> dict[str, Task]:
        wanted = {f"{system}, seed {seed}": (system, seed) for seed in options.seeds for system in options.systems}
        return {key: partial(row, *what, kept, options) for key, what in wanted.items() if key not in rows}

    fill(name, settings, options, tasks, report_lines)
    if options.checkpoint:
        model, _ = trained(options.systems[-1], options.seeds[-1], kept, options)
        model.save_pretrained(options.checkpoint)


def row(system: str, seed: int, kept: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A system trained and measured, by the name of its row."""
    model, log = trained(system, seed, kept, options)
    found = rates(model.sites, model.ttt).tolist()
    return {f"{system}, seed {seed}": measure(model, test_ids(options)) | {"log": log, "rates": found}}


def trained(system: str, seed: int, kept: Path, options: argparse.Namespace) -> tuple[Any, Log]:
    def make() -> tuple[Any, Log]:
        model = new_model(options)
        return model, train(model, GRADIENTS[system], options.steps, seed, options, options.truncate_chunks)

    return trained_once(kept / f"{system}, seed {seed}.pt", options, make)


if __name__ == "__main__":
    main()
