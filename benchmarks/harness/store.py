"""Where figures go: JSON for machines, Markdown for people, both under `results/` with the machine they came from.

A `Store` holds the rows of one benchmark and saves them after each: a run that was cut off goes on where it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console

from .machine import in_words, machine, places

DIRECTORY = Path(__file__).parents[2] / "results"
Report = dict[str, Any]
Rows = dict[str, Any]
console = Console(soft_wrap=True)


@dataclass
class Store:
    """A report under `results/`, and how its page is made of it; a page may add to the report what it derives."""

    name: str
    report: Report
    page: Callable[[Report], Sequence[str]]

    @property
    def rows(self) -> Rows:
        return self.report["rows"]

    @classmethod
    def of_machine(cls, name: str, settings: Mapping[str, Any], page: Callable[[Report], Sequence[str]]) -> Store:
        """With the rows that were measured with these settings on this machine; those that failed are tried again."""
        stored, rows, here = stored_report(name), {}, machine()
        if stored and _alike(here, stored["machine"]) and stored["settings"] == json.loads(json.dumps(settings)):
            rows = {row: found for row, found in stored["rows"].items() if "failed" not in found}
        return cls(name, {"settings": settings, "machine": here, "rows": rows}, page)

    @classmethod
    def of_all(cls, name: str, settings: Mapping[str, Any], page: Callable[[Report], Sequence[str]]) -> Store:
        """With all rows that are stored, which do not depend on the machine; the report says where each was measured.

        Raises
        ------
        SystemExit
            When they were measured with other settings: nothing is written over.
        """
        report = stored_report(name) or {"settings": settings, "rows": {}}
        there, here = report["settings"], json.loads(json.dumps(settings))
        differing = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
        if differing:
            raise SystemExit(
                f"{name}.json holds answers with another {', '.join(differing)}: "
                f"{[there.get(key) for key in differing]}, now {[here.get(key) for key in differing]}. "
                "Move it away to begin anew."
            )
        before = report.get("commands") or ([report["made"]["command"]] if "made" in report else [])
        commands = list(dict.fromkeys([*before, made()["command"]]))
        where = report.get("where") or dict.fromkeys(report["rows"], in_words(report.get("machine", {})))
        return cls(name, report | {"where": where, "machine": machine(), "commands": commands}, page)

    def add(self, rows: Rows) -> Path:
        """Keep rows that were measured just now."""
        self.report["rows"] |= rows
        if "where" in self.report:
            self.report["where"] |= dict.fromkeys(rows, in_words(self.report["machine"]))
        return self.save()

    def fill(self, measures: Mapping[str, Callable[[], Any]]) -> Path:
        """Measure the rows that are not there."""
        for name, measure in measures.items():
            if name not in self.rows:
                console.print(f"{name} …", markup=False)
                self.add({name: measure()})
        return self.save()

    def save(self) -> Path:
        return save(self.name, self.report, self.page(self.report))

    def show(self) -> None:
        console.print("\n".join(self.page(self.report)), markup=False)


def stored_report(name: str) -> Report:
    """What `results/<name>.json` says; nothing where there is none."""
    path = DIRECTORY / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def save(name: str, report: Report, lines: Sequence[str]) -> Path:
    """Write `results/<name>.json` and `.md`; returns the directory."""
    DIRECTORY.mkdir(exist_ok=True)
    report = report | {"made": made()}
    # Whole or not at all: rows of hours are read back from it.
    unfinished = DIRECTORY / f"{name}.json.part"
    unfinished.write_text(json.dumps(report, indent=1) + "\n")
    unfinished.replace(DIRECTORY / f"{name}.json")
    footer = f"Measured on {places(report)}."
    (DIRECTORY / f"{name}.md").write_text("\n".join([f"# {name}", "", *lines, footer]) + "\n")
    return DIRECTORY


def made() -> dict[str, str]:
    """When, and by which command; of paths only the last part, since where things lie here helps nobody."""
    spec = sys.modules["__main__"].__spec__
    arguments = [Path(part).name if "/" in part else part for part in sys.argv[1:]]
    quoted = [f'"{part}"' if " " in part else part for part in arguments]
    return {"date": date.today().isoformat(), "command": " ".join(["python -m", spec.name if spec else "?", *quoted])}


def dated(row: dict[str, Any]) -> dict[str, Any]:
    """A row that was measured just now, with the day: others of its table may be of another state of the code."""
    return row | {"date": date.today().isoformat()}


def days(rows: Iterable[dict[str, Any]]) -> str:
    """When rows were measured."""
    found = sorted({row["date"] for row in rows if "date" in row})
    return " to ".join(dict.fromkeys([found[0], found[-1]])) if found else "a day that was not recorded"


def _alike(here: dict[str, Any], there: dict[str, Any]) -> bool:
    return all(here.get(key) == there.get(key) for key in {*here, *there} - {"load_average"})
