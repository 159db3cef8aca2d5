"""The table and the picture of `benchmarks.needle`, from its stored answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .needles import INSIDE, STRATA, TASKS
from .paired import Difference, difference
from .results import markdown_table

ASKED = ", question known"  # how rows end that chose by the question
UNBOUNDED = ("full attention", "BM25")  # keep all keys, or all of the text
SPARSE = ("Quest", "LessIsMore")  # keep all keys and read some
FLOOR = "no context"
BOUNDED = ("SnapKV", "H2O", "StreamingLLM, re-anchored", "window + sinks", "KVzip")
OURS = ("TTT", "notepad", "consolidated", "next-token", "full fine")


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


def paired(one: dict[str, Any], other: dict[str, Any]) -> Difference | None:
    """Difference of the recalls of needles outside the window that both were asked for."""
    return difference([
        (answer["right"], other[task][index]["right"])
        for task, by_index in one.items()
        for index, answer in by_index.items()
        if answer["stratum"] != INSIDE and index in other.get(task, {})
    ])  # fmt: skip


def mebibytes(row: dict[str, Any]) -> str:
    sizes = [answer["bytes"] for by_index in row.values() for answer in by_index.values()]
    return f"{sum(sizes) / len(sizes) / 2**20:.2f}"


def wins(rows: dict[str, Any], tasks: list[str]) -> list[str]:
    """Where what keeps everything finds more than the best of what is bounded, task by task."""
    bounded = [name for name in rows if name not in (*UNBOUNDED, *SPARSE, FLOOR) and not name.endswith(ASKED)]
    found = []
    for name in (name for name in UNBOUNDED if name in rows and bounded):
        for task in tasks:
            own = [a["right"] for a in answers(rows[name], False, task)]
            shares = {}
            for other in bounded:
                right = [a["right"] for a in answers(rows[other], False, task)]
                if len(right) == len(own):  # others were asked less
                    shares[other] = sum(right) / len(right)
            if own and shares and sum(own) / len(own) > max(shares.values()):
                best = max(shares, key=shares.__getitem__)
                found.append(f"- {name} wins on {task}: {sum(own) / len(own):.2f}, {best} {shares[best]:.2f}")
    return found or ["- Neither does."]


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings, rows = report["settings"], report["rows"]
    tasks = [task for task in TASKS if any(task in row for row in rows.values())]
    table, strata, compared = [], [], []
    for name, row in rows.items():
        outside = answers(row, inside=False)
        by_depth = [[a for a in outside if a["stratum"] == str(stratum)] for stratum in range(STRATA)]
        strata.append([name, *map(share, by_depth), share(answers(row, True))])
        if name.removesuffix(ASKED) in rows and name.endswith(ASKED):
            continue  # a column of the row without the question
        table.append([
            name, str(len(outside)), share(outside), interval(row), share(answers(rows.get(name + ASKED, {}), False)),
            *(share(answers(row, False, task)) for task in tasks), share(answers(row, True)), mebibytes(row),
        ])  # fmt: skip
    for name in (name for name in rows if name.startswith(OURS)):
        for other in (other for other in (*BOUNDED, *UNBOUNDED) if other in rows):
            if (found := paired(rows[name], rows[other])) is not None:
                size = f"{mebibytes(rows[name])} / {mebibytes(rows[other])}"
                compared.append([name, other, str(found), str(found.pairs), found.verdict, size])
    header = ["system", "n", "outside", "95%", "question known", *tasks, "inside", "MiB"]
    return [
        f"{settings['model']}, contexts of at most {settings['tokens']:,} tokens, window {settings['window']} + "
        f"{settings['sinks']} sinks, every other state as large in tokens. Share of needles found by the state alone; "
        "outside and inside the window; *question known*: outside, where the question chose what is kept.",
        "",
        *markdown_table(header, table),
        "",
        "By depth of the needle, outside the window from the beginning on:",
        "",
        *markdown_table(["system", "1st fifth", "2nd", "3rd", "4th", "last", "inside"], strata),
        "",
        "Outside the window, paired by needle, 95% intervals by bootstrap:",
        "",
        *markdown_table(["system", "against", "difference", "n", "finds", "MiB of both"], compared),
        "",
        "Where full attention or BM25, which keep everything, find more outside the window than any bounded state:",
        "",
        *wins(rows, tasks),
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
