"""What is left of a conversation of many sessions when its keys and words are gone, at the same retained bytes?

Recall by type of question and by how long ago it was said, stale answers about what has changed, abstention. Nothing
is chosen by the question but what BM25 retrieves. `--state` is the tokens whose keys and values every bounded row
keeps; the default takes as many bytes of the default model as a memory of the default rank.

    python -m benchmarks.memory_over_turns                     # five conversations; memories are slow and named apart
    python -m benchmarks.memory_over_turns --only "consolidated memory" "consolidated memory + notepad"
    python -m benchmarks.memory_over_turns --quick             # one conversation, every third question
    python -m benchmarks.memory_over_turns --locomo locomo10.json --only BM25 "no context"

Rows that were measured with the same settings are kept, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from .results import DIRECTORY, machine, markdown_table, save
from .sessions import Sessions, draw, locomo
from .turns_rows import ROWS, SLOW, Bench, scored

NAME = "memory_over_turns"
QUICK, EVERY = ("no context", "SnapKV", "KVzip", "notepad + last messages", "BM25"), 3  # rows, and every third question
DRAWS = 10_000  # of the bootstrap
KINDS = ("single-session, user", "single-session, assistant", "multi-session", "temporal", "knowledge update")


def answers(rows: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """All answers of a row, in an order that rows share."""
    return [answer for _, stored in sorted(rows[name].items()) for answer in stored["answers"]]


def share(found: Sequence[bool]) -> str:
    return f"{sum(found) / len(found):.2f}" if found else "-"


def paired(rows: dict[str, Any], one: str, other: str) -> str:
    """Difference in recall and its 95% interval by paired bootstrap, over conversations that both were asked about."""
    both = sorted(set(rows[one]) & set(rows[other]))
    pairs = [
        float(a["right"]) - float(b["right"])
        for key in both
        for a, b in zip(rows[one][key]["answers"], rows[other][key]["answers"])
        if a["kind"] != "abstention"
    ]
    if not pairs:
        return "-"
    values = torch.tensor(pairs)
    drawn = values[torch.randint(len(values), (DRAWS, len(values)), generator=torch.Generator().manual_seed(0))]
    low, high = torch.quantile(drawn.mean(1), torch.tensor([0.025, 0.975])).tolist()
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f}), n={len(values)}"


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings, rows = report["settings"], report["rows"]
    kinds = [kind for kind in KINDS if any(a["kind"] == kind for name in rows for a in answers(rows, name))]
    kinds += sorted({a["kind"] for name in rows for a in answers(rows, name)} - {*KINDS, "abstention"})
    sessions = report["sessions"]
    table, lags = [], []
    for name in rows:
        given = answers(rows, name)
        asked = [a for a in given if a["kind"] != "abstention"]
        changed = [a for a in given if a["kind"] == "knowledge update"]
        size = sum(stored["bytes"] for stored in rows[name].values()) / len(rows[name])
        seconds = sum(stored["seconds"] for stored in rows[name].values()) / len(rows[name])
        table.append([
            name, str(len(asked)), share([a["right"] for a in asked]),
            *(share([a["right"] for a in given if a["kind"] == kind]) for kind in kinds),
            share([a["stale"] for a in changed]), share([a["right"] for a in given if a["kind"] == "abstention"]),
            f"{size / 1e6:.2f}", f"{seconds:.0f}",
        ])  # fmt: skip
        # Dates and corrections depend on more than how long ago something was said.
        plain = [a for a in asked if a["kind"] not in ("temporal", "knowledge update")]
        lags.append([name, *(share([a["right"] for a in plain if sessions - 1 - a["session"] == lag])
                             for lag in range(sessions))])  # fmt: skip
    compared = [
        [name, *(paired(rows, name, other) if other in rows else "-" for other in ("StreamingLLM", "SnapKV", "H2O"))]
        for name in rows
        if name.startswith(("consolidated", "notepad"))
    ]
    return [
        f"{settings['model']}, {report['conversations']} conversations of {sessions} sessions; bounded rows keep keys "
        f"and values of {settings['state']} tokens. Share of questions answered rightly; *stale*: the old value of "
        "what has changed; *abstains*: declines what was never said. Bytes while it answers; BM25 and summaries: of "
        "the text on disk.",
        "",
        *markdown_table(["system", "n", "recall", *kinds, "stale", "abstains", "MB", "seconds"], table),
        "",
        "By how many sessions ago it was said, dates and corrections left out:",
        "",
        *markdown_table(["system", *(str(lag) for lag in range(sessions))], lags),
        "",
        "Difference in recall, 95% by paired bootstrap over questions:",
        "",
        *markdown_table(["system", "StreamingLLM", "SnapKV", "H2O"], compared),
        "",
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    from .plots import recall_bars

    def mean(found: list[bool]) -> float:
        return sum(found) / len(found) if found else 0.0

    bars = {}
    for name in report["rows"]:
        given = answers(report["rows"], name)
        asked, unsaid = (
            [a["right"] for a in given if (a["kind"] == "abstention") == abstention] for abstention in (False, True)
        )
        bars[name] = mean(asked), mean(unsaid)
    recall_bars(
        bars, path, f"Asked after {report['sessions']} sessions, {report['settings']['model']}",
        ("right answers", "declined, where nothing was said"),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-0.5b")
    parser.add_argument("--conversations", type=int, default=5)
    parser.add_argument("--state", type=int, default=332)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="rows; slow ones run only when they are named")
    parser.add_argument("--locomo", type=Path, help="locomo10.json, instead of conversations of our own")
    parser.add_argument("--questions", type=int, default=20, help="of each conversation of LoCoMo")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--full", action="store_true", help="the default, by name")
    options = parser.parse_args(arguments)
    only = options.only or (QUICK if options.quick else [name for name in ROWS if name not in SLOW])
    conversations = 1 if options.quick else options.conversations
    talks: list[Sessions]
    if options.locomo:
        talks = locomo(options.locomo, options.questions)[:conversations]
    else:
        talks = [draw(seed) for seed in range(conversations)]

    if options.quick:
        talks = [replace(talk, asked=talk.asked[::EVERY]) for talk in talks]

    name = NAME + ("_locomo" if options.locomo else "") + ("_quick" if options.quick else "")
    settings = {key: getattr(options, key) for key in ("model", "state", "sinks")}
    path = DIRECTORY / f"{name}.json"
    rows: dict[str, Any] = {}
    if path.exists() and (before := json.loads(path.read_text()))["settings"] == settings:
        rows = before["rows"]
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "sessions": talks[0].sessions, "rows": rows}

    bench, console = Bench(options.model, options.state, options.sinks), Console(soft_wrap=True)
    for number, talk in enumerate(talks):
        missing = [row for row in only if str(number) not in rows.get(row, {})]
        if missing:
            bench.take(talk)
        for row in missing:
            began = time.perf_counter()
            given, nbytes = ROWS[row](bench)
            judged = [scored(asked, answer) for asked, answer in zip(talk.asked, given)]
            took = time.perf_counter() - began
            rows.setdefault(row, {})[str(number)] = {"answers": judged, "bytes": nbytes, "seconds": took}
            report["conversations"] = max(len(stored) for stored in rows.values())
            save(name, report, lines(report))
            right = [one["right"] for one in judged if one["kind"] != "abstention"]
            console.print(f"conversation {number}, {row}: {share(right)} in {took:.0f} s", markup=False)
    report["conversations"] = max(len(stored) for stored in rows.values())
    directory = save(name, report, lines(report))
    plot(report, directory / f"{name}.png")
    console.print("\n".join(lines(report)), markup=False)


if __name__ == "__main__":
    main()
