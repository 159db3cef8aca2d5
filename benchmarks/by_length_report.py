"""Tables and pictures of costs by context length: what was measured, what was extrapolated, and where systems cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_retrofit import TTTConfig

from .by_length import READ_TOKENS, READS
from .harness.tables import markdown_table
from .measure import FULL
from .plots import by_length
from .scaling import Coefficients, break_even, fit, predict, worst_error

Rows = dict[str, dict[int, dict[str, Any]]]  # a measured row, or why there is none, by system and length


@dataclass(frozen=True)
class Quantity:
    """What is measured, how it is shown, and how it grows: the degree of the fit, with and without a window."""

    name: str
    title: str
    cheaper: str
    unit: float
    full: int
    windowed: int

    def degree(self, system: str) -> int:
        return self.full if system == FULL else self.windowed


QUANTITIES = (
    Quantity("read", "seconds to read", "reads faster from", 1, 2, 1),
    Quantity("token", "milliseconds per token", "decodes faster from", 1e-3, 1, 0),
    Quantity("retained", "retained, MiB", "holds less from", 2**20, 1, 0),
    Quantity("peak", "peak while reading, MiB", "needs less from", 2**20, 1, 0),
)


def points(rows: dict[int, dict[str, Any]], quantity: Quantity) -> dict[int, float]:
    """What was measured of a quantity, by length."""
    return {length: row[quantity.name] for length, row in rows.items() if row.get(quantity.name) is not None}


def fitted(rows: Rows, quantity: Quantity) -> dict[str, Coefficients | None]:
    measured = {system: points(by_tokens, quantity) for system, by_tokens in rows.items()}
    return {name: fit([*found], [*found.values()], quantity.degree(name)) for name, found in measured.items()}


def cells(rows: Rows, quantity: Quantity, fits: dict[str, Coefficients | None], length: int) -> list[str]:
    """A quantity of every system at one length: as measured, else extrapolated, else a dash."""
    found = []
    for system, by_tokens in rows.items():
        measured, coefficients = points(by_tokens, quantity).get(length), fits[system]
        if measured is not None:
            found.append(shown(measured / quantity.unit))
        elif coefficients is not None:
            found.append(f"{shown(rounded(predict(coefficients, length) / quantity.unit, 3))}, extrapolated")
        else:
            found.append("-")
    return found


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def rounded(value: float, digits: int) -> float:
    """To significant digits: a fit has no more."""
    return float(f"{value:.{digits}g}")


def crossing(rows: Rows, quantity: Quantity, fits: dict[str, Coefficients | None], system: str) -> str:
    """From which length on a system costs less than full attention, in words."""
    full, other = fits[FULL], fits[system]
    if full is None or other is None:
        return "-"
    length = break_even(full, other)
    measured = points(rows[system], quantity).keys() & points(rows[FULL], quantity).keys()
    if not measured:
        return "-"
    if length is None:
        return "never"
    if length < min(measured):
        return f"below {min(measured):,}"
    return f"{rounded(length, 2):,.0f}" + (", extrapolated" if length > max(measured) else "")


def missing(rows: Rows, batch: int) -> list[str]:
    """Why rows are not there, one line for each system."""
    failed = {
        system: {length: row["failed"] for length, row in by_tokens.items() if "failed" in row}
        for system, by_tokens in rows.items()
    }
    return [
        f"Not measured: {system}, batch {batch}, {length:,} tokens: {why}."
        for system, by_tokens in failed.items()
        for length, why in by_tokens.items()
    ] + [
        f"Not measured: {quantity.title}, batch {batch}, {system}: it cannot be reset on this system."
        for quantity in QUANTITIES
        for system, by_tokens in rows.items()
        if not points(by_tokens, quantity) and any("failed" not in row for row in by_tokens.values())
    ]


def report(
    measured: dict[int, Rows], lengths: Sequence[int], settings: dict[str, Any]
) -> tuple[list[str], dict[str, Any]]:
    """The lines of the page, and what was derived from the rows, both by batch size."""
    lines = [
        "### By length of the context",
        "",
        f"On {settings['device']}; times of reads of up to {READ_TOKENS // 2:,} tokens are the fastest of up to "
        f"{READS}. Per token: over {settings['decoded']} greedy tokens after the read, an update after every "
        f"{TTTConfig().chunk_size} where there is learning; full attention's cache is transformers' own, which is "
        "copied for every token. Peak: while reading, full attention in one pass, above the loaded model. Tokens: of "
        "one row.",
        "",
    ]
    derived: dict[str, Any] = {"fits": {}, "break_even": {}}
    for batch, rows in measured.items():
        fits = {quantity.name: fitted(rows, quantity) for quantity in QUANTITIES}
        windowed = [system for system in rows if system != FULL]
        crossings = {
            system: {q.name: crossing(rows, q, fits[q.name], system) for q in QUANTITIES} for system in windowed
        }
        derived["fits"][batch], derived["break_even"][batch] = fits, crossings
        read = [length for by_tokens in rows.values() for length, row in by_tokens.items() if "failed" not in row]
        longest = max(read, default=0)
        lines += [f"### Batch {batch}, against full attention", "", f"Measured up to {longest:,} tokens.", ""]
        header = ["system", *(quantity.cheaper for quantity in QUANTITIES)]
        lines += [*markdown_table(header, [[system, *crossings[system].values()] for system in windowed]), ""]
        lines += [line for reason in missing(rows, batch) for line in (reason, "")]
        for quantity in QUANTITIES:
            table = [[f"{length:,}", *cells(rows, quantity, fits[quantity.name], length)] for length in lengths]
            lines += [f"### Batch {batch}: {quantity.title}", "", *markdown_table(["tokens", *rows], table), ""]
            lines += [deviation(rows, quantity, fits[quantity.name]), ""]
    return lines, derived


def deviation(rows: Rows, quantity: Quantity, fits: dict[str, Coefficients | None]) -> str:
    """How far the rows are from what is fitted to them."""
    forms = ("a", "a + bT", "a + bT + cT²")
    described = []
    for system, coefficients in fits.items():
        if coefficients is None:
            described.append(f"{system}: too few rows to fit")
            continue
        found = points(rows[system], quantity)
        error = worst_error(coefficients, [*found], [*found.values()])
        described.append(f"{system}: {forms[quantity.degree(system)]}, rows within {error:.1%}")
    return f"Fits: {'; '.join(described)}."


def draw(rows: Rows, lengths: Sequence[int], path: Path, title: str) -> None:
    """One panel for each quantity: rows as points, fits as lines."""
    panels = {}
    for quantity in QUANTITIES:
        curves = {}
        for system, coefficients in fitted(rows, quantity).items():
            found = {length: value / quantity.unit for length, value in points(rows[system], quantity).items()}
            line = {} if coefficients is None else {n: predict(coefficients, n) / quantity.unit for n in lengths}
            curves[system] = (found, line)
        panels[quantity.title] = curves
    by_length(panels, path, title)
