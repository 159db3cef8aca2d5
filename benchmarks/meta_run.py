"""How a table of meta-learning is filled: row by row, in one process or several, with weights kept.

What was trained once is read again, over more tokens or other texts, without training; so is a run that was cut off.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ttt_retrofit.outer.parameters import choose

from .harness.processes import as_they_end, share_cores
from .harness.store import Store
from .meta_phase import measure, new_model, test_ids, without_window
from .meta_tables import BASE, FULL
from .storage import cache_directory, locked

READING = ("tokens", "texts")  # options that say what is read, and leave the training as it is

Rows = dict[str, Any]
Task = Callable[[], Rows]
Log = list[dict[str, Any]]


def fill(
    name: str,
    settings: dict[str, Any],
    options: argparse.Namespace,
    tasks: Callable[[Rows], dict[str, Task]],
    report_lines: Callable[[Rows, argparse.Namespace], tuple[list[str], Any]],
) -> None:
    """Make the rows that are missing, and save the tables after each.

    tasks: those that are left when some rows are there, by what they are called. They and what they return go from one
    process to another.
    """
    share_cores(options.jobs)  # before it is written down

    def page(report: dict[str, Any]) -> list[str]:
        rows = report["rows"]
        if not {FULL, BASE} <= rows.keys():
            return ["Not finished."]
        lines, report["compared"] = report_lines(rows, options)
        return lines

    store = Store.of_all(name, settings, page)
    for made in _made(tasks(store.rows), store.rows, options):
        store.add(made)
    store.save()
    store.show()


def _made(tasks: dict[str, Task], have: Rows, options: argparse.Namespace) -> Iterator[Rows]:
    """The rows of each task as it ends, the base's before all unless they are there."""
    bases = {name: partial(_untrained, name, options) for name in (FULL, BASE) if name not in have}
    print(f"To do: {', '.join(bases | tasks)}", flush=True)
    for name, rows in as_they_end(options.jobs, bases | tasks):
        print(f"{name}: there", flush=True)
        yield rows


def _untrained(name: str, options: argparse.Namespace) -> Rows:
    """The row of the base: under full attention, or as it reads when it was only converted."""
    ids = test_ids(options)
    return {name: without_window(options, ids) if name == FULL else measure(new_model(options), ids)}


def weights_directory(name: str, settings: dict[str, Any]) -> Path:
    """Where what was trained with these settings is kept, whatever is read with it."""
    training = json.dumps({name: value for name, value in settings.items() if name not in READING}, sort_keys=True)
    kept = cache_directory() / f"{name}-{hashlib.sha256(training.encode()).hexdigest()[:8]}"
    kept.mkdir(parents=True, exist_ok=True)
    return kept


def trained_once(path: Path, options: argparse.Namespace, make: Callable[[], tuple[Any, Log]]) -> tuple[Any, Log]:
    """A trained model and its log: what is kept at `path`, or else what `make` returns, which is then kept."""
    with locked(path):  # another process may be at it
        if path.exists():
            kept = torch.load(path, map_location="cpu")
            model = new_model(options)
            for parameter, value in zip(_outer(model), kept["parameters"], strict=True):
                parameter.data.copy_(value)
            return model, kept["log"]
        model, log = make()
        unfinished = path.with_suffix(".part")
        torch.save({"parameters": [parameter.detach() for parameter in _outer(model)], "log": log}, unfinished)
        unfinished.replace(path)
        return model, log


def _outer(model: Any) -> list[torch.nn.Parameter]:
    return choose(model, ["start", "log_lr"]).all
