"""Builds `docs/results.md` anew from `results/`: python -m benchmarks.report

Each section is what a figure is about (`report.toml`), then every stored table, the command, date, machine and
versions it was made with, and its pictures. With --check nothing is written; the exit status says whether the page is
up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

from .harness.machine import places
from .harness.store import DIRECTORY
from .harness.tables import markdown_table

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
SECTIONS = Path(__file__).with_name("report.toml")


def stored(name: str) -> list[str]:
    """The names of a benchmark's results: its own, and those of its variants; small runs left out."""
    found = {path.stem for path in DIRECTORY.glob("*.json")}
    return sorted(
        stem for stem in found if (stem == name or stem.startswith(name + "_")) and not stem.endswith("_quick")
    )


def pictures(name: str) -> list[str]:
    """The files of a result's own pictures, not those of a variant whose name goes on."""
    others = [path.stem for path in DIRECTORY.glob(f"{name}_*.json")]
    return sorted(p.name for p in DIRECTORY.glob(f"{name}*.png") if not any(p.stem.startswith(o) for o in others))


def measured(name: str) -> str:
    """Where a result came from, in a line."""
    report = json.loads((DIRECTORY / f"{name}.json").read_text())
    machine, made = report.get("machine", {}), report.get("made", {})
    commands = report.get("commands") or [made.get("command", "command not recorded")]
    return (
        f"{', '.join(f'`{command}`' for command in commands)}, {made.get('date', 'date not recorded')}, on "
        f"{places(report)} (load {machine.get('load_average')}), transformers {machine.get('transformers')}. "
        f"[Table](../results/{name}.md)"
    )


def tables(name: str) -> list[str]:
    """The body of a stored page, its headings one level below a section's."""
    lines = (DIRECTORY / f"{name}.md").read_text().splitlines()
    body = [f"#{line}" if line.startswith("###") else line for line in lines[1:] if not line.startswith("Measured on")]
    while body and not body[-1]:
        body.pop()
    return body


def section(entry: dict[str, Any]) -> list[str]:
    lines = [f"## {entry['title']}", "", entry["text"].strip(), ""]
    for name in stored(entry["name"]):
        lines += [f"### {name}", *tables(name), "", measured(name), ""]
        lines += [f"![{name}](../results/{picture})\n" for picture in pictures(name)]
    return lines


def page() -> str:
    described = tomllib.loads(SECTIONS.read_text())
    entries = described["section"]
    have = [entry for entry in entries if stored(entry["name"])]
    rows = []
    for entry in have:
        linked = ", ".join(f"[{name}](../results/{name}.md)" for name in stored(entry["name"]))
        rows.append([entry["title"], f"`python -m benchmarks.{entry['name']}`", entry["what"], linked])
    missing = [f"`python -m benchmarks.{e['name']}` ({e['what']})" for e in entries if e not in have]
    lines = [
        "<!-- Written by `python -m benchmarks.report` from results/ and benchmarks/report.toml; do not edit. -->",
        "# How each figure is made", "", described["intro"].strip(), "",
        *markdown_table(["section", "command", "what", "stored"], rows), "",
    ]  # fmt: skip
    if missing:
        lines += [f"Without a stored result so far: {', '.join(missing)}.", ""]
    lines += [described["outro"].strip(), ""]
    for entry in have:
        lines += section(entry)
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        current = PAGE.read_text() == page()
        print(f"{PAGE.name} is up to date" if current else f"{PAGE.name} differs: run python -m benchmarks.report")
        return 0 if current else 1
    PAGE.write_text(page())
    print(f"{PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE.name} written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
