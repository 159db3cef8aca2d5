"""Comparing the four ways of reading (`ttt_retrofit.evaluation`) on one text, with progress shown on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PreTrainedModel

from ttt_retrofit import TTTConfig, wrap
from ttt_retrofit.config import PRESETS as NAMED
from ttt_retrofit.evaluation import (
    FULL,
    SINKS,
    STREAMING,
    SYSTEMS,
    TTT,
    WINDOW,
    Advance,
    Reading,
    configure,
    full_attention,
    gap_closed,
    streaming,
)
from ttt_retrofit_cli.output import COLUMNS, bar

PRESETS = {name: NAMED[name] for name in ("default", "fast")}  # that every table has

__all__ = ["FULL", "PRESETS", "SINKS", "STREAMING", "SYSTEMS", "TTT", "WINDOW", "Advance", "Reading", "configure"]
__all__ += ["compare", "converted", "full_attention", "gap_closed", "progress_bars", "streaming"]


def compare(
    base: PreTrainedModel, ids: Tensor, config: TTTConfig, *, full: Reading | None = None, title: str = ""
) -> dict[str, Reading]:
    """Read one text in all four ways, with progress shown on stderr. The base is handed back as it came.

    Parameters
    ----------
    base : a plain model; it is converted in place for the while.
    ids : (T,) or (1, T) token ids.
    config : how the converted model reads; the systems differ from it in what `STREAMING` says.
    full : the reading under full attention if it is known already, to save the time of a second one.

    Returns
    -------
    One reading for each of `SYSTEMS`, in that order.
    """
    readings = {} if full is None else {FULL: full}
    pending = [name for name in SYSTEMS if name not in readings]
    with progress_bars(pending, torch.as_tensor(ids).numel(), title) as bars:
        if full is None:
            readings[FULL] = full_attention(base, ids, bars[FULL])
        with converted(base, config) as model:
            for name in STREAMING:
                configure(model, config, name)
                readings[name] = streaming(model, ids, bars[name])
    return readings


@contextmanager
def converted(base: PreTrainedModel, config: TTTConfig) -> Iterator[Any]:
    """`base` wrapped for the block, and unwrapped after it."""
    model = wrap(base, config)
    try:
        yield model
    finally:
        model.unwrap()


@contextmanager
def progress_bars(names: list[str], tokens: int, title: str = "") -> Iterator[dict[str, Advance]]:
    """One bar with time left for each name, on stderr; each is advanced by the tokens just read."""
    columns = (*COLUMNS, TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield {name: bar(progress, f"{title}: {name}" if title else name, tokens) for name in names}
