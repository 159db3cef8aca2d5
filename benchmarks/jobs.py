"""Work that several processes share."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", type=int, default=1, help=f"processes that {what} side by side, and share the cores")


def share_cores(jobs: int) -> None:
    """Once in each process."""
    torch.set_num_threads(max(torch.get_num_threads() // jobs, 1))


def processes(jobs: int, begin: Callable[..., object] = share_cores, *given: object) -> ProcessPoolExecutor:
    """So many processes, in each of which `begin(jobs, *given)` is called first."""
    context = multiprocessing.get_context("spawn")  # a fork would take CUDA and its threads along
    return ProcessPoolExecutor(jobs, context, begin, (jobs, *given))
