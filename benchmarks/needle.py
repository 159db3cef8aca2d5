"""Is a rare string still found when all but a bounded state is gone? Every system at the same retained bytes.

RULER's single needle 1 to 3 and multikey 1 and 2 as lm-eval makes them (`ruler.py`), and passkey, at depths that take
turns. The state is made before the question is known (query-agnostic); rows marked "question known" choose what to keep
by the question, and stand in a column of their own. The window is `--window` tokens, and every other state is as large;
notepads halve it between themselves and the window. `--only founding` is the experiment this project began with: train
on a needle and its haystack, by LoRA and with all weights, then ask the question alone.

    python -m benchmarks.needle                                    # 4,096 tokens, window 256
    python -m benchmarks.needle --quick
    python -m benchmarks.needle --quick --only founding --samples 1
    python -m benchmarks.needle --only "consolidated memory" --samples 2 --model qwen2.5-0.5b

Answers that were given with the same settings are kept in `results/`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from .needle_report import lines, plot
from .needle_rows import GROUPS, ROWS, SLOW, Bench
from .needles import TASKS, found, in_turns, of_task
from .results import DIRECTORY, machine, save

NAME = "needle"
SAMPLES = 20  # of each task: with six tasks, 102 needles outside the window
QUICK_TASKS, QUICK_SAMPLES = ("single 2",), 6


def run(options: argparse.Namespace, stored: dict[str, Any], keep: Any) -> None:
    """Ask every row about every sample, skipping what is stored."""
    bench = Bench(options.model, options.window, options.sinks, options.only)
    console = Console()
    needles = {}
    for task in options.tasks:
        every = of_task(task, options.model, options.tokens, bench.count)
        needles[task] = in_turns(every, options.window, bench.count, options.samples)
    for index in range(options.samples):
        for task in options.tasks:
            missing = [name for name in options.only if str(index) not in stored.get(name, {}).get(task, {})]
            if not missing:
                continue
            place, needle = needles[task][index]
            bench.take(needle)
            for name in missing:
                answer, nbytes = ROWS[name](bench)
                row = {"right": found(needle, answer), "answer": answer, "value": needle.value, "stratum": place,
                       "depth": needle.depth, "bytes": nbytes}  # fmt: skip
                stored.setdefault(name, {}).setdefault(task, {})[str(index)] = row
                keep()
            right = [name for name in missing if stored[name][task][str(index)]["right"]]
            console.print(f"{task} {index} at {needle.depth:.2f}: {', '.join(right) or 'nobody'}", markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256, help="tokens of the window, and of every other state")
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument(
        "--samples", type=int, help=f"of each task, {SAMPLES} unless told; 6 strata of depth take turns"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--only", nargs="+", choices=[*ROWS, *GROUPS], help="rows; slow ones run only when they are named"
    )
    parser.add_argument("--quick", action="store_true", help="1,024 tokens, one task, 6 samples")
    parser.add_argument("--full", action="store_true", help="the default, by name")
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.window, options.tasks = 1024, 128, list(QUICK_TASKS)
    options.samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    named = options.only or [name for name in ROWS if name not in SLOW]
    options.only = [row for name in named for row in GROUPS.get(name, (name,))]

    name = f"{NAME}_{options.model}_{options.tokens}" + ("_quick" if options.quick else "")
    settings = {key: getattr(options, key) for key in ("model", "tokens", "window", "sinks")}
    path = DIRECTORY / f"{name}.json"
    rows: dict[str, Any] = {}
    if path.exists() and (before := json.loads(path.read_text()))["settings"] == settings:
        rows = before["rows"]
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}

    run(options, rows, lambda: save(name, report, lines(report)))
    directory = save(name, report, lines(report))
    plot(report, directory / f"{name}.png")
    Console(soft_wrap=True).print("\n".join(lines(report)), markup=False)


if __name__ == "__main__":
    main()
