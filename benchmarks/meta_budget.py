"""Does meta-learning pay with more training? Loss against the budget, beside plain fine-tuning of the same parameters.

A course is trained in parts, each with a schedule of its own, and measured after each: all the way without updates
(the control), all the way through updates by first order, or without updates first and exactly through them after:
what any text teaches is then learned the cheap way. Courses that begin alike share what they share. Weights are kept,
so that a longer read of the same courses trains nothing.

    python -m benchmarks.meta_budget
    python -m benchmarks.meta_budget --courses control "first order"
    python -m benchmarks.meta_budget --tokens 16384 --ends    # whole courses only
    python -m benchmarks.meta_budget --sequence 8192 --parts 15 15 30
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ttt_retrofit.meta.parameters import choose

from .meta_phase import add_options, in_words, measure, new_model, test_ids, train, without_window
from .meta_tables import BASE, CONTROL, FULL, by_seed, tables
from .results import kept_rows, machine, save
from .storage import cache_directory

NAME = "meta_budget"
N, F, E = "none", "first_order", "exact"
COURSES = {
    CONTROL: (N, N, N),
    "first order": (F, F, F),
    "exact after the first part": (N, E, E),
}
READING = ("tokens", "texts")  # options that say what is read, and leave the training as it is


def key(course: tuple[str, ...]) -> str:
    return " + ".join(course)


def trained(course: tuple[str, ...], seed: int, kept: Path, options: argparse.Namespace) -> Any:
    """A model as the course leaves it; a part that was trained before is loaded from `kept`."""
    path = kept / f"{key(course)}, seed {seed}.pt"
    if path.exists():
        model = new_model(options)
        for parameter, value in zip(_outer(model), torch.load(path), strict=True):
            parameter.data.copy_(value)
        return model
    model = trained(course[:-1], seed, kept, options) if len(course) > 1 else new_model(options)
    part = len(course) - 1
    # Each part has sequences of its own, the same for every course.
    train(model, course[-1], options.parts[part], 1000 * seed + part, options)
    torch.save([parameter.detach() for parameter in _outer(model)], path)
    return model


def _outer(model: Any) -> list[torch.nn.Parameter]:
    return choose(model, ["start", "log_lr"]).all


def report_lines(rows: dict[str, Any], options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    systems, control_of = {BASE: {0: rows[BASE]}}, {}
    for length in range(1, len(options.parts) + 1):
        label = f"{sum(options.parts[:length])} steps, {{}}".format
        for name, course in COURSES.items():
            alone = name == CONTROL or set(course[:length]) != {N}  # or it has not yet parted from the control
            seeds = by_seed(rows, key(course[:length])) if alone and length <= len(course) else {}
            if seeds:
                systems[label(name)] = seeds
                if name != CONTROL and label(CONTROL) in systems:
                    control_of[label(name)] = label(CONTROL)
    lines, compared = tables(systems, control_of, rows[FULL])
    return [in_words(options, "steps"), "", *lines], compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(tokens=4096, train_on="many")
    parser.add_argument("--parts", type=int, nargs="+", default=[60, 60, 120], help="steps of each part of a course")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--courses", nargs="+", choices=list(COURSES), default=list(COURSES))
    parser.add_argument("--ends", action="store_true", help="measure after the last part only")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.parts, options.sequence, options.tokens = [0], [4, 4], 1024, 2048
        options.texts = options.texts[:2]
    settings = {name: value for name, value in vars(options).items() if name not in ("seeds", "courses", "ends")}
    name = f"{NAME}_{options.window}_{options.setting}_{options.sequence}_{options.tokens}"
    name += "_quick" if options.quick else ""
    rows = kept_rows(name, settings)
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}
    training = json.dumps({name: value for name, value in settings.items() if name not in READING})
    kept = cache_directory() / f"{NAME}-{hashlib.sha256(training.encode()).hexdigest()[:8]}"
    kept.mkdir(parents=True, exist_ok=True)

    console = Console()
    ids = test_ids(options)
    if FULL not in rows:
        rows[FULL] = without_window(options, ids)
    if BASE not in rows:
        rows[BASE] = measure(new_model(options), ids)
    for seed in options.seeds:
        for wanted in options.courses:
            whole = min(len(COURSES[wanted]), len(options.parts))
            for length in range(whole if options.ends else 1, whole + 1):
                course = COURSES[wanted][:length]
                row = f"{key(course)}, seed {seed}"
                if row not in rows:
                    console.print(f"{row} …")
                    rows[row] = measure(trained(course, seed, kept, options), ids)
                lines, report["compared"] = report_lines(rows, options)
                save(name, report, lines)
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
