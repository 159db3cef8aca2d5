"""What an object shows of itself: one line at a prompt, a small table in a notebook, both made of the same rows."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .shown import shown_in_line

LONGEST, LONGEST_VALUE = 300, 80  # characters of a line, and of a value in it
UNITS = ("B", "kB", "MB", "GB", "TB")
Rows = Mapping[str, Any]  # name -> value; a string is shown in quotes, None is left out


@dataclass(frozen=True)
class Bare:
    """What is shown without quotes, such as a figure with its unit."""

    value: object

    def __str__(self) -> str:
        return str(self.value)


class Displayed:
    """Mixin: `__repr__` and `_repr_html_` from `_rows`, which reads no tensor on a device and nothing that was said."""

    def _rows(self) -> Rows:
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_line(type(self).__name__, _rows_of(self))

    def _repr_html_(self) -> str:
        return as_table(type(self).__name__, _rows_of(self))


def as_line(title: str, rows: Rows) -> str:
    """`Title(name=value, …)`, of at most 300 characters."""
    shown = ", ".join(f"{name}={_in_words(value, LONGEST_VALUE)}" for name, value in rows.items() if value is not None)
    return _cut(f"{title}({shown}", LONGEST - 1) + ")"


def as_table(title: str, rows: Rows) -> str:
    """The same as an HTML table."""
    cells = "".join(
        f"<tr><th style='text-align: left'>{html.escape(name)}</th>"
        f"<td style='text-align: left'>{html.escape(_in_words(value, LONGEST))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{cells}</tbody></table>"


def in_bytes(size: float) -> Bare:
    """A size with the unit that suits it: 1.3 MB."""
    unit = 0
    while size >= 1000 and unit < len(UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return Bare(f"{size:.0f} {UNITS[unit]}" if unit == 0 else f"{size:.1f} {UNITS[unit]}")


def in_percent(share: float | None) -> Bare | None:
    return None if share is None else Bare(f"{share:.0%}")


def span(values: list[int]) -> Bare | None:
    """One number for all rows of a batch, or the least and the most."""
    if not values:
        return None
    least, most = min(values), max(values)
    return Bare(f"{least:,}" if least == most else f"{least:,}–{most:,}")


def _rows_of(displayed: Displayed) -> Rows:
    try:
        return displayed._rows()
    except AttributeError:  # debuggers and test runners show objects whose __init__ has not ended
        return {"complete": False}


def _in_words(value: Any, most: int) -> str:
    if isinstance(value, str):
        return repr(_cut(value, most))
    return _cut(shown_in_line(str(value)), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
