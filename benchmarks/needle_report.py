"""The table and the picture of `benchmarks.needle`, from its stored answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .needles import TASKS
from .results import markdown_table

INSIDE = "inside"
DRAWS = 10_000  # of the bootstrap


def answers(row: dict[str, Any], inside: bool, task: str | None = None) -> list[dict[str, Any]]:
    """Stored answers about needles inside or outside the window."""
    chosen = row.values() if task is None else [row.get(task, {})]
    return [a for by_index in chosen for a in by_index.values() if (a["stratum"] == INSIDE) == inside]


def share(found: Iterable[dict[str, Any]]) -> str:
    right = [answer["right"] for answer in found]
    return f"{sum(right) / len(right):.2f}" if right else "-"


def interval(row: dict[str, Any]) -> str:
    """95% interval of the recall outside the window, Wilson's."""
    right = [answer["right"] for answer in answers(row, inside=False)]
    if not right:
        return "-"
    n, p, z = len(right), sum(right) / len(right), 1.96
    centre, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((centre + sign * spread) / (1 + z * z / n) for sign in (-1, 1))
    return f"{max(low, 0.0):.2f}-{min(high, 1.0):.2f}"


def paired(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float, int] | None:
    """Difference of the recalls outside the window, its 95% interval by paired bootstrap, and the pairs."""
    differences = [
        float(answer["right"]) - float(other[task][index]["right"])
        for task, by_index in one.items()
        for index, answer in by_index.items()
        if answer["stratum"] != INSIDE and index in other.get(task, {})
    ]
    if not differences:
        return None
    values = torch.tensor(differences)
    drawn = torch.randint(len(values), (DRAWS, len(values)), generator=torch.Generator().manual_seed(0))
    low, high = torch.quantile(values[drawn].mean(1), torch.tensor([0.025, 0.975])).tolist()
    return values.mean().item(), low, high, len(values)


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings, rows = report["settings"], report["rows"]
    tasks = [task for task in TASKS if any(task in row for row in rows.values())]
    table, strata = [], []
    for name, row in rows.items():
        given = [a for by_index in row.values() for a in by_index.values()]
        outside = answers(row, inside=False)
        size = sum(a["bytes"] for a in given) / len(given)
        table.append([
            name, str(len(outside)), share(outside), interval(row),
            *(share(answers(row, False, task)) for task in tasks), share(answers(row, True)), f"{size / 2**20:.2f}",
            f"{sum(a['seconds'] for a in given) / len(given):.1f}",
        ])  # fmt: skip
        by_depth = [[a for a in outside if a["stratum"] == str(stratum)] for stratum in range(5)]
        strata.append([name, *map(share, by_depth), share(answers(row, True))])
    compared = []
    ours = [name for name in rows if name.startswith(("notepad", "consolidated"))]
    for name in ours:
        for other in ("SnapKV", "H2O", "KVzip", "window + sinks"):
            if other in rows and (found := paired(rows[name], rows[other])) is not None:
                mean, low, high, n = found
                compared.append([name, other, f"{mean:+.2f} ({low:+.2f} to {high:+.2f})", str(n)])
    header = ["system", "n", "outside", "95%", *tasks, "inside", "MiB", "seconds"]
    return [
        f"{settings['model']}, contexts of {settings['tokens']:,} tokens, window {settings['window']} + "
        f"{settings['sinks']} sinks, every other state as large in tokens. Share of needles found by the state alone; "
        "outside and inside the window. Seconds are those beyond what rows share.",
        "",
        *markdown_table(header, table),
        "",
        "By depth of the needle, outside the window from the beginning on:",
        "",
        *markdown_table(["system", "1st fifth", "2nd", "3rd", "4th", "last", "inside"], strata),
        "",
        "Outside the window, paired by needle, 95% intervals by bootstrap:",
        "",
        *markdown_table(["system", "against", "difference", "n"], compared),
        "",
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """Recall of each system, outside and inside the window."""
    from .plots import recall_bars

    rows = report["rows"]

    def mean(found: list[dict[str, Any]]) -> float:
        return sum(a["right"] for a in found) / len(found) if found else 0.0

    bars = {name: (mean(answers(row, False)), mean(answers(row, True))) for name, row in rows.items()}
    settings = report["settings"]
    title = f"Needles found at {settings['tokens'] // settings['window']} times the window, {settings['model']}"
    recall_bars(bars, path, title, ("outside the window", "inside"))
