"""Is a rare string still found when all but a bounded state is gone? Every system at the same retained bytes.

RULER's single needle 1 to 3, multikey 1 and 2, and passkey, at stratified depths. The state is made before the question
is known (query-agnostic); rows marked "question known" choose what to keep by the question. The window is `--window`
tokens, and every other state is as large; notepads halve it between themselves and the window.

    python -m benchmarks.needle                                    # 4,096 tokens, window 256
    python -m benchmarks.needle --quick
    python -m benchmarks.needle --only "consolidated memory" --samples 2 --model qwen2.5-0.5b

Answers that were given with the same settings are kept in `results/`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from .needle_report import lines, plot
from .needle_rows import ROWS, SLOW, Bench
from .needles import TASKS, draw, found
from .results import DIRECTORY, machine, save

NAME = "needle"
STRATA = 5  # of depth outside the window; every sixth needle is inside
QUICK_TASKS = ("single 2",)


def depth(index: int, tokens: int, window: int, generator: random.Random) -> tuple[str, float]:
    """The stratum of a sample, and a depth within it. Strata take turns."""
    outside = 1 - 1.5 * window / tokens  # what is deeper may be in the window, partly or wholly
    if index % (STRATA + 1) == STRATA:
        return "inside", 1 - generator.uniform(0.2, 0.4) * window / tokens
    stratum = index % (STRATA + 1)
    return str(stratum), outside * (stratum + generator.random()) / STRATA


def run(options: argparse.Namespace, stored: dict[str, Any], keep: Any) -> None:
    """Ask every row about every sample, skipping what is stored."""
    bench = Bench(options.model, options.window, options.sinks, options.only)
    console = Console()
    for index in range(options.samples):
        for task in options.tasks:
            # A string seeds alike in every process.
            generator = random.Random(f"{task} {index}")
            stratum, place = depth(index, options.tokens, options.window, generator)
            missing = [name for name in options.only if str(index) not in stored.get(name, {}).get(task, {})]
            if not missing:
                continue
            needle = draw(task, bench.count, options.tokens, place, generator)
            bench.take(needle)
            for name in missing:
                began = time.perf_counter()
                answer, nbytes = ROWS[name](bench)
                row = {"right": found(needle, answer), "answer": answer, "value": needle.value, "stratum": stratum,
                       "depth": place, "bytes": nbytes, "seconds": time.perf_counter() - began}  # fmt: skip
                stored.setdefault(name, {}).setdefault(task, {})[str(index)] = row
                keep()
            right = [name for name in missing if stored[name][task][str(index)]["right"]]
            console.print(f"{task} {index} at {place:.2f}: {', '.join(right) or 'nobody'}", markup=False)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=256, help="tokens of the window, and of every other state")
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--samples", type=int, default=20, help="of each task; 6 strata of depth take turns")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="rows; slow ones run only when they are named")
    parser.add_argument("--quick", action="store_true", help="1,024 tokens, one task, 6 samples")
    parser.add_argument("--full", action="store_true", help="the default, by name")
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.window, options.samples, options.tasks = 1024, 128, 6, list(QUICK_TASKS)
    options.only = options.only or [name for name in ROWS if name not in SLOW]

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
