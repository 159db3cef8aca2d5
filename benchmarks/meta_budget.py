"""Does meta-learning pay with more training? Loss against the budget, beside plain fine-tuning of the same parameters.

A course is trained in parts, each with a schedule of its own, and measured after each: all the way without updates
(the control), all the way through updates, by first order or exactly, or without updates first and exactly through
them after: what any text teaches is then learned the cheap way. Courses that begin alike share what they share.
Weights are kept, so that a longer read of the same courses trains nothing.

    python -m benchmarks.meta_budget --jobs 2                 # two courses at a time
    python -m benchmarks.meta_budget --courses control "first order"
    python -m benchmarks.meta_budget --tokens 16384 --ends    # whole courses only
    python -m benchmarks.meta_budget --sequence 8192 --parts 15 15 30
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from .harness.options import add_jobs, command_line, stored_as
from .meta_phase import add_options, in_words, measure, new_model, test_ids, train
from .meta_run import Log, Task, fill, trained_once, weights_directory
from .meta_tables import BASE, CONTROL, FULL, by_seed, tables

NAME = "meta_budget"
N, F, E = "none", "first_order", "exact"
COURSES = {
    CONTROL: (N, N, N),
    "first order": (F, F, F),
    "exact after the first part": (N, E, E),
    "exact": (E, E, E),
}
AS_LONG = ("seeds", "courses", "ends", "jobs")  # options on which no row depends


def key(course: tuple[str, ...]) -> str:
    return " + ".join(course)


def trained(course: tuple[str, ...], seed: int, kept: Path, options: argparse.Namespace) -> Any:
    """A model as the course leaves it; a part that was trained before is loaded from `kept`."""

    def make() -> tuple[Any, Log]:
        model = trained(course[:-1], seed, kept, options) if len(course) > 1 else new_model(options)
        part = len(course) - 1
        # Each part has sequences of its own, the same for every course.
        return model, train(model, course[-1], options.parts[part], 1000 * seed + part, options)

    model, _ = trained_once(kept / f"{row_name(course, seed)}.pt", options, make)
    return model


def rows_of(
    courses: list[tuple[str, ...]], seed: int, kept: Path, options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """What each course, the beginnings of one, has reached."""
    ids = test_ids(options)
    return {row_name(course, seed): measure(trained(course, seed, kept, options), ids) for course in courses}


def row_name(course: tuple[str, ...], seed: int) -> str:
    return f"{key(course)}, seed {seed}"


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
    parser = command_line(__doc__, quick="one seed, few steps: to see that it runs")
    add_options(parser)
    add_jobs(parser, "train")
    parser.set_defaults(tokens=4096, train_on="many")
    parser.add_argument("--parts", type=int, nargs="+", default=[60, 60, 120], help="steps of each part of a course")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--courses", nargs="+", choices=list(COURSES), default=list(COURSES))
    parser.add_argument("--ends", action="store_true", help="measure after the last part only")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.parts, options.sequence, options.tokens = [0], [4, 4], 1024, 2048
        options.texts = options.texts[:2]
    settings = {name: value for name, value in vars(options).items() if name not in AS_LONG}
    batch = "" if options.batch == 1 else f"x{options.batch}"
    read = f"{options.sequence}{batch}"
    name = stored_as(NAME, options.window, options.setting, read, options.tokens, quick=options.quick)
    kept = weights_directory(NAME, settings)

    def tasks(rows: dict[str, Any]) -> dict[str, Task]:
        left: dict[str, Task] = {}
        for seed in options.seeds:
            for wanted in options.courses:
                whole = min(len(COURSES[wanted]), len(options.parts))
                courses = [COURSES[wanted][:length] for length in range(whole if options.ends else 1, whole + 1)]
                if missing := [course for course in courses if row_name(course, seed) not in rows]:
                    left[f"{wanted}, seed {seed}"] = partial(rows_of, missing, seed, kept, options)
        return left

    fill(name, settings, options, tasks, report_lines)


if __name__ == "__main__":
    main()
