"""Is a rare string still found when all but a bounded state is gone? Windows, eviction and notepads at equal bytes.

RULER's single needle 1 to 3 and multikey 1 and 2 as lm-eval makes them (`ruler.py`), and passkey, at depths that take
turns. The state is made before the question is known (query-agnostic); rows marked "question known" choose what to keep
by the question, and stand in a column of their own. The window is `--window` tokens, and what eviction keeps is as
large; notepads halve it between themselves and the window. Fast weights, sparse attention and retrieval keep more, as
the table says. `--only founding` is the experiment this project began with: train on a needle and its haystack, by LoRA
and with all weights, then ask the question alone.

    python -m benchmarks.needle                                    # sixteen windows of 256 tokens
    python -m benchmarks.needle --quick
    python -m benchmarks.needle --quick --only founding --samples 1
    python -m benchmarks.needle --only "consolidated memory" --samples 2 --model qwen2.5-0.5b

Answers that were given with the same settings are kept in `results/`, so a run that was cut off goes on where it was,
and a later one adds its rows. A row that cannot answer says why, and is asked again next time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .harness.loading import tokenizer_of
from .harness.machine import in_words
from .harness.options import add_jobs, command_line, stored_as
from .harness.processes import as_they_end, share_cores
from .harness.rows import attempt
from .harness.store import Store, console
from .needle_report import lines, plot
from .needle_rows import (
    ANSWER_TOKENS,
    GROUPS,
    RARE,
    ROWS,
    SLOW,
    TRAINED_PART,
    TRAINED_STEPS,
    Answered,
    Bench,
    learning_config,
)
from .needles import TASKS, Needle, found, of_task, stratified

NAME = "needle"
TOKENS = 4700  # contexts of all tasks are then longer than 4,096
SAMPLES = 20  # of each task: with six tasks, 102 needles outside the window
QUICK_TASKS, QUICK_SAMPLES = ("single 2",), 6
KEEP_EVERY = 60  # seconds, at least: the tables take as long as some answers
Answers = dict[str, dict[str, Any]]  # by system
Rows = dict[str, dict[str, Answers]]  # by system, task, and number of the needle
_bench: Bench | None = None  # of this process


@dataclass(frozen=True)
class Question:
    """A needle, and the rows that are asked about it one after the other."""

    task: str
    index: int
    place: str  # of the needle, see `needles.stratum`
    needle: Needle
    rows: tuple[str, ...]


def questions(options: argparse.Namespace, stored: Rows, count: Callable[[str], int]) -> list[Question]:
    """What is not answered yet; a slow row is a question of its own."""
    needles = {task: chosen(options, task, count) for task in options.tasks}
    quick, slow = ([name for name in options.only if (name in SLOW) == is_slow] for is_slow in (False, True))
    found = []
    for index in range(options.samples):
        for task in options.tasks:
            for rows in (quick, *([name] for name in slow)):
                missing = tuple(name for name in rows if not is_answered(stored, name, task, index))
                if missing:
                    found.append(Question(task, index, *needles[task][index], missing))
    return found


def run(options: argparse.Namespace, asked: Sequence[Question], stored: Rows, keep: Callable[[], object]) -> None:
    """Ask, in one process or several, and store the answers."""
    kept = time.monotonic()
    tasks = {question: partial(answers_to, question) for question in asked}
    for question, answers in as_they_end(options.jobs, tasks, begin, options):
        for name, answer in answers.items():
            by_index = stored.setdefault(name, {}).setdefault(question.task, {}) | {str(question.index): answer}
            stored[name][question.task] = dict(sorted(by_index.items(), key=lambda item: int(item[0])))
        if time.monotonic() - kept > KEEP_EVERY:
            keep()
            kept = time.monotonic()
        right = [name for name, answer in answers.items() if answer.get("right")]
        where = f"{question.task} {question.index} at {question.needle.depth:.2f}"
        console.print(f"{where}, {len(answers)} asked: {', '.join(right) or 'nobody'}", markup=False)


def begin(jobs: int, options: argparse.Namespace) -> None:
    """Once in each process that asks."""
    global _bench
    share_cores(jobs)
    _bench = Bench(options.model, options.window, options.sinks, options.device)


def answers_to(question: Question) -> Answers:
    """By row."""
    assert _bench is not None
    _bench.take(question.needle)
    about = {
        "value": question.needle.value, "stratum": question.place, "depth": question.needle.depth,
        "tokens": len(_bench.ids),
    }  # fmt: skip
    return {name: answer_of(_bench, name) | about for name in question.rows}


def chosen(options: argparse.Namespace, task: str, count: Callable[[str], int]) -> list[tuple[str, Needle]]:
    every = of_task(task, options.model, options.tokens, count)
    return stratified(every, options.window, count, options.samples)


def is_answered(stored: Rows, name: str, task: str, index: int) -> bool:
    row = stored.get(name, {}).get(task, {}).get(str(index))
    return row is not None and "failed" not in row


def answer_of(bench: Bench, name: str) -> dict[str, Any]:
    """What a row answers about the needle, or why it cannot."""

    def stored(answered: Answered) -> dict[str, Any]:
        answer, nbytes = answered
        held = {"held": bench.noted()} if name in RARE else {}
        return {"right": found(bench.needle, answer), "answer": answer, "bytes": nbytes} | held

    return attempt(bench, ROWS[name], stored)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_line(
        __doc__, model="smollm2-135m", device=True, quick="1,024 tokens, one task, 6 samples", full=True
    )
    parser.add_argument("--tokens", type=int, default=TOKENS, help="of the context, and room for an answer of RULER")
    parser.add_argument("--window", type=int, default=256, help="tokens of the window, and of every other state")
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument(
        "--samples", type=int, help=f"of each task, {SAMPLES} unless told; 6 strata of depth take turns"
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--only", nargs="+", choices=[*ROWS, *GROUPS], help="rows; slow ones run only when they are named"
    )
    add_jobs(parser, "answer")
    options = parser.parse_args(arguments)
    if options.quick:
        options.tokens, options.window, options.tasks = 1024, 128, list(QUICK_TASKS)
    options.samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    named = options.only or [name for name in ROWS if name not in SLOW]
    options.only = list(dict.fromkeys(row for name in named for row in GROUPS.get(name, (name,))))

    name = stored_as(NAME, options.model, options.tokens, options.window, quick=options.quick)
    # All that an answer depends on: none may be mixed with those of another recipe.
    settings = {key: getattr(options, key) for key in ("model", "tokens", "window", "sinks")} | {
        "answer_tokens": ANSWER_TOKENS, "trained_steps": TRAINED_STEPS, "trained_part": TRAINED_PART,
        "ttt": learning_config(options.window, options.sinks).to_dict(),
    }  # fmt: skip
    share_cores(options.jobs)  # before it is written down
    store = Store.of_all(name, settings, lines)
    tokenizer = tokenizer_of(options.model)
    asked = questions(options, store.rows, lambda text: len(tokenizer(text).input_ids))
    here = in_words(store.report["machine"])
    beside = {f"{row}, {here}": here for question in asked for row in question.rows}  # beside where it was
    store.report["where"] |= beside
    try:
        if asked:
            run(options, asked, store.rows, store.save)
    finally:  # of a run that is cut off, too
        directory = store.save()
    plot(store.report, directory / f"{name}.png")
    store.show()


if __name__ == "__main__":
    main()
