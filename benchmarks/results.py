"""Where figures go: JSON for machines, Markdown for people, both under `results/` with the machine they came from."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

DIRECTORY = Path(__file__).parent.parent / "results"


def machine() -> dict[str, Any]:
    """What a figure was measured on."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        processor = named[0] if named else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [_row(header), _row(["---"] * len(header)), *map(_row, rows)]


def made() -> dict[str, str]:
    """When, and by which command; of paths only the last part, since where things lie here helps nobody."""
    spec = sys.modules["__main__"].__spec__
    arguments = [Path(part).name if "/" in part else part for part in sys.argv[1:]]
    quoted = [f'"{part}"' if " " in part else part for part in arguments]
    return {"date": date.today().isoformat(), "command": " ".join(["python -m", spec.name if spec else "?", *quoted])}


def kept_rows(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The rows of a stored result that were measured with these settings on this machine, by name; {} where none were.

    Rows that failed are left out: they are tried again.
    """
    path = DIRECTORY / f"{name}.json"
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    here, there = ({k: v for k, v in of.items() if k != "load_average"} for of in (machine(), stored["machine"]))
    if here != there or stored["settings"] != json.loads(json.dumps(settings)):
        return {}
    return {name: row for name, row in stored["rows"].items() if "failed" not in row}


def kept_report(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What is stored of a result whose rows do not depend on the machine, for hours of further rows.

    Its settings, rows, commands (that of today, too), the machine of today, and where each row was measured (`noted`).

    Raises
    ------
    SystemExit
        When it was measured with other settings: nothing is written over.
    """
    path = DIRECTORY / f"{name}.json"
    report = json.loads(path.read_text()) if path.exists() else {"settings": settings, "rows": {}}
    there, here = report["settings"], json.loads(json.dumps(settings))
    differing = sorted(key for key in {*there, *here} if there.get(key) != here.get(key))
    if differing:
        raise SystemExit(
            f"{path.name} holds answers with another {', '.join(differing)}: "
            f"{[there.get(key) for key in differing]}, now {[here.get(key) for key in differing]}. "
            "Move it away to begin anew."
        )
    before = report.get("commands") or ([report["made"]["command"]] if "made" in report else [])
    commands = list(dict.fromkeys([*before, made()["command"]]))
    where = report.get("where") or dict.fromkeys(report["rows"], in_words(report.get("machine", {})))
    return report | {"where": where, "machine": machine(), "commands": commands}


def noted(report: dict[str, Any], rows: dict[str, Any]) -> None:
    """Put rows that were measured just now into a report."""
    report["rows"] |= rows
    report["where"] |= dict.fromkeys(rows, in_words(report["machine"]))


def dated(row: dict[str, Any]) -> dict[str, Any]:
    """A row that was measured just now, with the day: others of its table may be of another state of the code."""
    return row | {"date": date.today().isoformat()}


def days(rows: Iterable[dict[str, Any]]) -> str:
    """When rows were measured."""
    found = sorted({row["date"] for row in rows if "date" in row})
    return " to ".join(dict.fromkeys([found[0], found[-1]])) if found else "a day that was not recorded"


def in_words(machine: dict[str, Any]) -> str:
    """Of `machine()`."""
    where = machine.get("gpu") or f"{machine.get('processor')}, {machine.get('threads')} threads"
    return f"{where}, torch {machine.get('torch')}"


def places(report: dict[str, Any]) -> str:
    """Where the rows of a report were measured."""
    return "; ".join(sorted(set(report.get("where", {}).values())) or [in_words(report.get("machine", {}))])


def save(name: str, report: dict[str, Any], lines: Sequence[str]) -> Path:
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


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
