"""Builds `docs/results.md` anew from `results/`: python -m benchmarks.report

A summary comes first. Each section is what a figure is about (`report.toml`), its pictures, the command, date, machine
and versions it was made with, and every stored table, folded away and no wider than a page. With --check nothing is
written; the exit status says whether the page is up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .harness.machine import places
from .harness.store import DIRECTORY
from .harness.tables import markdown_table

PAGE = Path(__file__).parent.parent / "docs" / "results.md"
SECTIONS = Path(__file__).with_name("report.toml")
COLUMNS, WIDTH = 7, 120  # of a table, in characters without its lines: what a page shows without being scrolled


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


def narrowed(lines: Sequence[str]) -> list[str]:
    """The same lines, with every table of too many columns as several, each with the columns that name a row."""
    found: list[str] = []
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        part = list(group)
        found += split([cells(row) for row in part]) if is_table else part
    return found


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split("|")]


def split(table: Sequence[Sequence[str]]) -> list[str]:
    """A table, its header first, its rule second, as the lines of as many as it takes."""
    header, _, *rows = table
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    if len(header) <= COLUMNS and sum(widths) <= WIDTH:
        return markdown_table(header, rows)
    names = next(n for n in range(1, len(header) + 1) if len({tuple(row[:n]) for row in rows}) == len(rows))
    groups: list[list[int]] = []
    for column in range(names, len(header)):
        full = not groups or names + len(groups[-1]) >= COLUMNS
        if full or sum(widths[index] for index in (*range(names), *groups[-1], column)) > WIDTH:
            groups.append([])
        groups[-1].append(column)
    lines: list[str] = []
    for group in groups:
        chosen = [*range(names), *group]
        lines += [*([""] if lines else []), *markdown_table(pick(header, chosen), [pick(row, chosen) for row in rows])]
    return lines


def pick(row: Sequence[str], columns: Sequence[int]) -> list[str]:
    return [row[column] for column in columns]


def section(entry: dict[str, Any]) -> list[str]:
    lines = [f"## {entry['title']}", "", f"{capitalized(entry['what'])}.", "", entry["text"].strip(), ""]
    for name in stored(entry["name"]):
        lines += [f"![{name}](../results/{picture})\n" for picture in pictures(name)]
    for name in stored(entry["name"]):
        lines += [
            '<details markdown="1">', f"<summary>All tables of {name}</summary>", "",
            *narrowed(tables(name)), "", measured(name), "", "</details>", "",
        ]  # fmt: skip
    return lines


def capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def page() -> str:
    described = tomllib.loads(SECTIONS.read_text())
    entries = described["section"]
    have = [entry for entry in entries if entry.get("typed") or stored(entry["name"])]
    rows = [
        [f"[{entry['title']}](#{slug(entry['title'])})", f"`python -m benchmarks.{entry['name']}`"] for entry in have
    ]
    missing = [f"`python -m benchmarks.{e['name']}` ({e['what']})" for e in entries if e not in have]
    lines = [
        "<!-- Written by `python -m benchmarks.report` from results/ and benchmarks/report.toml; do not edit. -->",
        "# Results", "", described["summary"].strip(), "",
        "## How each figure is made", "", described["intro"].strip(), "",
        *markdown_table(["section", "command"], rows), "",
    ]  # fmt: skip
    if missing:
        lines += [f"Without a stored result so far: {', '.join(missing)}.", ""]
    lines += [described["outro"].strip(), ""]
    for entry in have:
        lines += section(entry)
    return "\n".join(lines).rstrip() + "\n"


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub and mkdocs make it."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


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
