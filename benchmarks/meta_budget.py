"""Does meta-learning pay with more training? Loss against the budget, beside plain fine-tuning of the same parameters.

A course is trained in parts, each with a schedule of its own, and measured after each: all the way without updates
(the control), all the way through updates by first order, or without updates first and exactly through them after:
what any text teaches is then learned the cheap way. Courses that begin alike share what they share.

    python -m benchmarks.meta_budget
    python -m benchmarks.meta_budget --courses control "first order"
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

from .meta_phase import Row, add_options, average, compare, config, measure, new_model, signed, test_ids, train
from .results import kept_rows, machine, markdown_table, save
from .storage import cache_directory

NAME = "meta_budget"
N, F, E = "none", "first_order", "exact"
CONTROL = "control"
COURSES = {
    CONTROL: (N, N, N),
    "first order": (F, F, F),
    "exact after the first part": (N, E, E),
}


def key(course: tuple[str, ...]) -> str:
    return " + ".join(course)


def run(course: tuple[str, ...], kept: Path, ids: dict[str, torch.Tensor], options: argparse.Namespace) -> Row:
    """Train the last part of a course, from where the parts before it ended, and measure."""
    model = new_model(options)
    outer = choose(model, ["start", "log_lr"]).all
    if len(course) > 1:
        for parameter, value in zip(outer, torch.load(kept / f"{key(course[:-1])}.pt"), strict=True):
            parameter.data.copy_(value)
    part = len(course) - 1
    # Each part has sequences of its own, the same for every course.
    train(model, course[-1], options.parts[part], 1000 * options.seed + part, options)
    torch.save([parameter.detach() for parameter in outer], kept / f"{key(course)}.pt")
    return measure(model, ids)


def report_lines(rows: dict[str, Row], options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    table, compared = [], {}
    for length in range(1, len(options.parts) + 1):
        steps = sum(options.parts[:length])
        control = rows.get(key(COURSES[CONTROL][:length]))
        for name, course in COURSES.items():
            row = rows.get(key(course[:length]))
            if row is None or len(course) < length or (name != CONTROL and set(course[:length]) == {N}):
                continue
            against = {} if control is None or name == CONTROL else compare([row], [control])
            compared[f"{name}, {steps} steps"] = against
            off, on = average(row, "off"), average(row, "on")
            table.append(
                [str(steps), name, f"{off:.4f}", f"{on:.4f}", f"{off - on:.4f}",
                 *(signed(against[what]) if against else "" for what in ("interaction", "end"))]
            )  # fmt: skip
    lines = [
        f"{options.model}, {config(options).in_words}; steps of one "
        f"sequence of {options.sequence:,} tokens (texts: {options.train_on}), seed {options.seed}; read over "
        f"{options.tokens:,} tokens of {', '.join(options.texts)}.",
        "",
        *markdown_table(
            ["steps", "course", "updates off", "on", "gain", "interaction", "updates on, against the control"], table
        ),
        "",
        "95% intervals by bootstrap over chunks; one seed.",
        "",
    ]
    return lines, compared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.set_defaults(tokens=4096, train_on="many")
    parser.add_argument("--parts", type=int, nargs="+", default=[60, 60, 120], help="steps of each part of a course")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--courses", nargs="+", choices=list(COURSES), default=list(COURSES))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.parts, options.sequence, options.tokens, options.texts = [4, 4], 1024, 2048, options.texts[:2]
    settings = {name: value for name, value in vars(options).items() if name != "courses"}
    name = f"{NAME}_{options.window}_{options.setting}{'_quick' if options.quick else ''}"
    rows = kept_rows(name, settings)
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}
    of_settings = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    kept = cache_directory() / f"{name}-{of_settings}"  # the weights at the end of each part
    kept.mkdir(parents=True, exist_ok=True)

    console = Console()
    ids = test_ids(options)
    for wanted in options.courses:
        for length in range(1, min(len(COURSES[wanted]), len(options.parts)) + 1):
            course = COURSES[wanted][:length]
            goes_on = length < len(COURSES[wanted])
            if key(course) not in rows or (goes_on and not (kept / f"{key(course)}.pt").exists()):
                console.print(f"{key(course)} …")
                rows[key(course)] = run(course, kept, ids, options)
            lines, report["compared"] = report_lines(rows, options)
            save(name, report, lines)
    console.print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
