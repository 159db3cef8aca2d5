"""Does a short meta-learning phase make updates worth more? Against plain fine-tuning with the same budget.

Every system is trained on the tuning texts, with the same steps over the same tokens and the same parameters, and read
with updates off and on over texts of other authors and kinds. Two questions: is what updates gain larger than for the
control (the interaction), and does the trained model with updates on end below the control with updates on.

A row that was measured with the same settings is kept, so a run that was cut off goes on where it stopped.

    python -m benchmarks.meta_learning --jobs 2        # three seeds; window 512; two rows at a time
    python -m benchmarks.meta_learning --setting sgd   # other fast weights, another inner optimizer
    python -m benchmarks.meta_learning --window 256
    python -m benchmarks.meta_learning --quick         # one seed, few steps, two texts: to see that it runs
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from rich.console import Console

from .meta_phase import add_options, in_words, measure, new_model, rows_made, share_cores, test_ids, train
from .meta_tables import BASE, CONTROL, FULL, by_seed, tables
from .results import kept_rows, machine, save

NAME = "meta_learning"
GRADIENTS = {CONTROL: "none", "first order": "first_order", "truncated": "truncated", "exact": "exact"}


def report_lines(rows: dict[str, Any], options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    systems = {BASE: {0: rows[BASE]}} | {system: by_seed(rows, system) for system in GRADIENTS}
    systems = {system: seeds for system, seeds in systems.items() if seeds}
    control_of = {system: CONTROL for system in systems if system not in (BASE, CONTROL) and CONTROL in systems}
    lines, compared = tables(systems, control_of, rows[FULL])
    return [in_words(options, f"{options.steps} steps"), "", *lines], compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--truncate-chunks", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", choices=list(GRADIENTS), default=list(GRADIENTS))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.steps, options.sequence, options.tokens = [0], 6, 1024, 2048
        options.texts = options.texts[:2]

    settings = {name: value for name, value in vars(options).items() if name not in ("seeds", "systems", "jobs")}
    name = f"{NAME}_{options.window}_{options.setting}{'_quick' if options.quick else ''}"
    share_cores(options.jobs)  # before it is written down
    rows = kept_rows(name, settings)
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}

    wanted = {f"{system}, seed {seed}": (system, seed) for seed in options.seeds for system in options.systems}
    tasks = {key: partial(row, *what, options) for key, what in wanted.items() if key not in rows}
    for made in rows_made(tasks, rows, options):
        rows |= made
        if FULL in rows and BASE in rows:
            save_tables(name, report, options)
    Console().print("\n".join(save_tables(name, report, options)), markup=False)


def save_tables(name: str, report: dict[str, Any], options: argparse.Namespace) -> list[str]:
    lines, report["compared"] = report_lines(report["rows"], options)
    save(name, report, lines)
    return lines


def row(system: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """A system trained and measured, by the name of its row."""
    model = new_model(options)
    log = train(model, GRADIENTS[system], options.steps, seed, options, options.truncate_chunks)
    rates = [site.rate(model.ttt).item() for site in model.sites]
    return {f"{system}, seed {seed}": measure(model, test_ids(options)) | {"log": log, "rates": rates}}


if __name__ == "__main__":
    main()
