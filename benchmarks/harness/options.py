"""The options of a benchmark's command line: those that several have are described once."""

from __future__ import annotations

import argparse

from .machine import DEVICE


def command_line(
    description: str | None, *, model: str = "", device: bool = False, quick: str = "", full: bool = False
) -> argparse.ArgumentParser:
    """A parser with the options that are asked for; `model` is the default, `quick` what it does."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        made.add_argument("--model", default=model)
    if device:
        made.add_argument("--device", default=DEVICE)
    if quick:
        made.add_argument("--quick", action="store_true", help=quick)
    if full:
        made.add_argument("--full", action="store_true", help="the default, by name")
    return made


def add_jobs(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--jobs", type=int, default=1, help=f"processes that {what} side by side, and share the cores")


def stored_as(name: str, *parts: object, quick: bool) -> str:
    """The name of a result; a quick one is kept apart."""
    return "_".join([name, *map(str, parts), *(["quick"] if quick else [])])
