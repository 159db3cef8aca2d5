"""Rows in processes of their own, one after the other or side by side; and why one did not end well."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

T, R = TypeVar("T"), TypeVar("R")


def share_cores(jobs: int) -> None:
    """Once in each process."""
    torch.set_num_threads(max(torch.get_num_threads() // jobs, 1))


def processes(jobs: int, begin: Callable[..., object] = share_cores, *given: object) -> ProcessPoolExecutor:
    """So many processes, in each of which `begin(jobs, *given)` is called first."""
    context = multiprocessing.get_context("spawn")  # a fork would take CUDA and its threads along
    return ProcessPoolExecutor(jobs, context, begin, (jobs, *given))


def as_they_end(
    jobs: int, tasks: Mapping[T, Callable[[], R]], begin: Callable[..., object] = share_cores, *given: object
) -> Iterator[tuple[T, R]]:
    """The tasks with what they return: one after the other in this process, or side by side in several."""
    if jobs == 1:
        begin(1, *given)
        yield from ((name, task()) for name, task in tasks.items())
        return
    with processes(jobs, begin, *given) as pool:
        pending = {pool.submit(task): name for name, task in tasks.items()}
        try:
            yield from ((pending[ended], ended.result()) for ended in as_completed(pending))
        finally:
            pool.shutdown(cancel_futures=True)  # of a run that is cut off: nothing more is begun


def ask(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The JSON object that `python -m module` prints last, or {"failed": why} if it did not end well."""
    run = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=os.environ)
    if run.returncode != 0:
        return {"failed": reason(run.returncode, run.stderr)}
    return json.loads(run.stdout.splitlines()[-1])


def here(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """The same in this process: for a GPU, where bytes can be told apart and models take long to load."""
    try:
        return importlib.import_module(module).row(arguments)
    except Exception as error:
        return failure(error)


def reason(code: int, said: str) -> str:
    """Why a process failed, in a line: the signal that ended it, or the last line it said, without directories."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line for line in said.splitlines() if line.strip()]
    return re.sub(r"(?<![\w.])(/[^/\s'\"]+)+/", "", lines[-1]) if lines else f"exit status {code}"


def failure(error: Exception) -> dict[str, str]:
    """What stands in a table for a row that raised, hours into a run that must not cost the others theirs.

    The traceback goes to stderr.
    """
    traceback.print_exception(error)
    return {"failed": reason(1, f"{type(error).__name__}: {error}".splitlines()[0])}
