"""The output of a verb: results on stdout, as tables or as one JSON document; everything else on stderr."""

from __future__ import annotations

import codecs
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ttt_retrofit.consolidation.control import Progress as Stage
from ttt_retrofit.util.shown import shown, shown_in_json, shown_in_line

from .frame import STOPPED

Advance = Callable[[int], None]
COLUMNS = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())


class Output:
    """What a verb says.

    Attributes
    ----------
    console : for results meant for eyes; stderr when stdout is to hold JSON.
    aside : stderr, for progress and remarks.
    stopped : what is said when the verb is interrupted.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json, self.stopped = as_json, STOPPED
        self.console = Console(stderr=as_json, highlight=False)
        self.aside = Console(stderr=True, highlight=False)

    def result(self, document: dict[str, Any], *seen: RenderableType) -> None:
        """The result, once: `document` where JSON is asked for, else what is to be seen."""
        if self.as_json:
            escaped = codecs.lookup(sys.stdout.encoding).name != "utf-8"
            print(shown_in_json(json.dumps(_plain(document), ensure_ascii=escaped, allow_nan=False)), flush=True)
            return
        for part in seen:
            seen_as = shown(part) if isinstance(part, str) else part
            self.console.print(seen_as, markup=False, soft_wrap=isinstance(part, str))

    def remark(self, text: str) -> None:
        """A line for the person who waits, never part of the result."""
        self.aside.print(shown(text), markup=False, soft_wrap=True)

    def _progress(self, *columns: ProgressColumn) -> Progress:
        """Bars that go when they are done, and are not drawn into a file."""
        return Progress(*columns, console=self.aside, transient=True, disable=not self.aside.is_terminal)

    @contextmanager
    def bars(self, names: list[str], total: int) -> Iterator[dict[str, Advance]]:
        """A bar for each name, which goes when all is done; its clock starts with the first advance."""
        with self._progress(*COLUMNS, TimeRemainingColumn()) as progress:
            yield {name: bar(progress, shown_in_line(name), total) for name in names}

    @contextmanager
    def stages(self) -> Iterator[Callable[[Stage], None]]:
        """A bar that follows a consolidation through its stages, each with the time left of it."""
        with self._progress(*COLUMNS, TextColumn("{task.fields[left]}")) as progress:
            task = progress.add_task("starting", total=None, left="")

            def show(now: Stage) -> None:
                progress.update(task, description=now.stage, completed=now.done, total=now.total, left=left(now))

            yield show


def bar(progress: Progress, name: str, total: int) -> Advance:
    """A bar among others, whose clock starts when its turn comes: with the first advance."""
    task = progress.add_task(name, total=total, start=False)

    def advance(done: int) -> None:
        progress.start_task(task)
        progress.advance(task, done)

    return advance


class ShownTable(Table):
    """A table whose cells are text that somebody else may have written: neither markup nor controls are obeyed."""

    def add_row(self, *cells: RenderableType | None, **kwargs: Any) -> None:
        super().add_row(*(Text(shown_in_line(cell)) if isinstance(cell, str) else cell for cell in cells), **kwargs)


def table(title: str, columns: list[str], caption: str = "") -> Table:
    """A table whose first column holds names, the others figures."""
    made = ShownTable(
        title=Text(shown(title)),
        caption=Text(shown(caption)) if caption else None,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    made.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        made.add_column(column, justify="right", no_wrap=True)
    return made


def facts(named: dict[str, str]) -> Table:
    """Names and what there is to say of them."""
    made = Table.grid(padding=(0, 2))
    for name, value in named.items():
        made.add_row(Text(shown(name)), Text(shown(value)))
    return made


def left(now: Stage) -> str:
    """The time left of a stage; empty where nobody knows."""
    return "" if now.seconds_left is None else f"{timedelta(seconds=round(now.seconds_left))} left"


def megabytes(count: int) -> str:
    """Bytes for eyes."""
    return f"{count / 1e6:,.1f} MB"


def _plain(value: Any) -> Any:
    """JSON knows no NaN: what was not measured is null."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
