"""What is left of a conversation of many sessions when its keys and words are gone, at the same retained bytes?

Recall by type of question and by how long ago it was said, stale answers about what has changed, interference (answers
that hold another fact of the conversation; change of the loss on unrelated text), abstention. Nothing is chosen by the
question but what BM25 retrieves, and in the column that says so. `--state` is the tokens whose keys and values every
bounded row keeps; the default takes as many bytes of the default model as a memory of the default rank.

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

from rich.console import Console

from .paired import Difference, difference
from .results import DIRECTORY, machine, markdown_table, save
from .sessions import Sessions, draw, locomo
from .turns_rows import ROWS, SLOW, Bench, scored

NAME = "memory_over_turns"
QUICK, EVERY = ("no context", "SnapKV", "KVzip", "notepad + last messages", "BM25"), 3  # rows, and every third question
ASKED = ", question known"  # how rows end that chose by the question
UNBOUNDED = ("full context", "BM25")  # keep all keys, or all of the text
FLOOR = "no context"
BOUNDED = ("SnapKV", "H2O", "StreamingLLM", "KVzip")
OURS = ("consolidated", "notepad")
COLUMNS = 6  # of recall by lag, at most
KINDS = ("single-session, user", "single-session, assistant", "multi-session", "temporal", "knowledge update")


def answers(rows: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """All answers of a row, in an order that rows share."""
    return [answer for _, stored in sorted(rows[name].items()) for answer in stored["answers"]]


def share(found: Sequence[bool]) -> str:
    return f"{sum(found) / len(found):.2f}" if found else "-"


def paired(rows: dict[str, Any], one: str, other: str) -> Difference | None:
    """Difference in recall over the conversations that both were asked about."""
    both = sorted(set(rows[one]) & set(rows[other]))
    return difference([
        (a["right"], b["right"])
        for key in both
        for a, b in zip(rows[one][key]["answers"], rows[other][key]["answers"], strict=True)
        if a["kind"] != "abstention"
    ])  # fmt: skip


def lags(sessions: int) -> list[range]:
    """How many sessions ago, one by one or in groups."""
    size = -(-sessions // COLUMNS)
    return [range(first, min(first + size, sessions)) for first in range(0, sessions, size)]


def recall(rows: dict[str, Any], name: str, kind: str | None = None) -> list[bool]:
    """Whether each answer was right, of a kind or of all but abstentions."""
    return [
        a["right"] for a in answers(rows, name) if (a["kind"] != "abstention" if kind is None else a["kind"] == kind)
    ]


def megabytes(row: dict[str, Any]) -> str:
    return f"{sum(stored['bytes'] for stored in row.values()) / len(row) / 1e6:.2f}"


def wins(rows: dict[str, Any], kinds: Sequence[str]) -> list[str]:
    """Where what keeps everything recalls more than the best of what is bounded, by kind of question."""
    bounded = [name for name in rows if name not in (*UNBOUNDED, FLOOR) and not name.endswith(ASKED)]
    found = []
    for name in (name for name in UNBOUNDED if name in rows and bounded):
        for kind in kinds:
            own = recall(rows, name, kind)
            by_row = {other: right for other in bounded if len(right := recall(rows, other, kind)) == len(own)}
            best = max(by_row, key=lambda other: sum(by_row[other]), default=None)  # others were asked less
            if best is not None and sum(own) > sum(by_row[best]):
                found.append(f"- {name} wins on {kind}: {share(own)}, {best} {share(by_row[best])}")
    return found or ["- Neither does."]


def drift(row: dict[str, Any]) -> str:
    """The largest change of the loss on unrelated text."""
    changes = [change for stored in row.values() for change in stored["drift"].values()]
    return f"{max(changes):+.1%}" if changes else "-"


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings, rows = report["settings"], report["rows"]
    kinds = [kind for kind in KINDS if any(a["kind"] == kind for name in rows for a in answers(rows, name))]
    others = sorted({a["kind"] for name in rows for a in answers(rows, name)} - {*KINDS, "abstention"})
    table, by_lag, compared = [], [], []
    for name, row in rows.items():
        given = answers(rows, name)
        asked = [a for a in given if a["kind"] != "abstention"]
        # Dates and corrections depend on more than how long ago something was said.
        plain = [a for a in asked if a["kind"] not in ("temporal", "knowledge update")]
        by_lag.append(
            [name, *(share([a["right"] for a in plain if a["lag"] in lag]) for lag in lags(report["sessions"]))]
        )
        if name.removesuffix(ASKED) in rows and name.endswith(ASKED):
            continue  # a column of the row without the question
        known = share(recall(rows, name + ASKED)) if name + ASKED in rows else "-"
        table.append([
            name, str(len(asked)), share(recall(rows, name)), known,
            *(share(recall(rows, name, kind)) for kind in (*kinds, *others)),
            f"{sum(a['f1'] for a in asked) / max(len(asked), 1):.2f}",
            share([a["stale"] for a in given if a["kind"] == "knowledge update"]), share([a["mixed"] for a in given]),
            drift(row), share(recall(rows, name, "abstention")), megabytes(row),
        ])  # fmt: skip
    for name in (name for name in rows if name.startswith(OURS)):
        for other in (other for other in (*BOUNDED, *UNBOUNDED) if other in rows):
            if (found := paired(rows, name, other)) is not None:
                size = f"{megabytes(rows[name])} / {megabytes(rows[other])}"
                compared.append([name, other, str(found), str(found.pairs), found.verdict, size])
    header = ["system", "n", "recall", "question known", *kinds, *others, "F1", "stale", "mixed up", "drift",
              "abstains", "MB"]  # fmt: skip
    ago = [str(lag.start) if len(lag) == 1 else f"{lag.start}-{lag.stop - 1}" for lag in lags(report["sessions"])]
    return [
        f"{settings['model']}, {report['conversations']} conversations of up to {report['sessions']} sessions; bounded "
        f"rows keep keys and values of {settings['state']} tokens. Share of questions answered rightly; *question "
        "known*: where the question chose what is kept; *stale*: the old value of what has changed; *mixed up*: wrong, "
        "with the answer to another question; *drift*: the largest change of the loss on unrelated prose and code; "
        "*abstains*: declines what was never said. Bytes while it answers; BM25 and summaries: of the text on disk.",
        "",
        *markdown_table(header, table),
        "",
        "By how many sessions ago it was said, dates and corrections left out:",
        "",
        *markdown_table(["system", *ago], by_lag),
        "",
        "Difference in recall, 95% by paired bootstrap over questions:",
        "",
        *markdown_table(["system", "against", "difference", "n", "recalls", "MB of both"], compared),
        "",
        "Where the full context or BM25, which keep everything, recall more than any bounded state:",
        "",
        *wins(rows, [*kinds, *others]),
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
    of_talks = ("questions",) if options.locomo else ()
    settings = {key: getattr(options, key) for key in ("model", "state", "sinks", *of_talks)}
    path = DIRECTORY / f"{name}.json"
    rows: dict[str, Any] = {}
    if path.exists() and (before := json.loads(path.read_text()))["settings"] == settings:
        rows = before["rows"]
    report: dict[str, Any] = {"settings": settings, "machine": machine(), "rows": rows}
    report["sessions"] = max(talk.sessions for talk in talks)

    bench, console = Bench(options.model, options.state, options.sinks), Console(soft_wrap=True)
    for number, talk in enumerate(talks):
        missing = [row for row in only if str(number) not in rows.get(row, {})]
        if missing:
            bench.take(talk)
        for row in missing:
            began = time.perf_counter()
            given = ROWS[row](bench)
            judged = scored(talk, given.answers)
            took = time.perf_counter() - began
            rows.setdefault(row, {})[str(number)] = {
                "answers": judged, "bytes": given.nbytes, "drift": dict(given.drift),
            }  # fmt: skip
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
