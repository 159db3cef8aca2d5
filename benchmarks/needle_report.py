"""The table and the picture of `benchmarks.needle`, from its stored answers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .harness.tables import Difference, Share, difference, markdown_table, share
from .needle_rows import RARE, ROWS
from .needles import INSIDE, STRATA, TASKS

ASKED = ", question known"  # how rows end that chose by the question
UNBOUNDED = ("full attention", "BM25")  # keep all keys, or all of the text
SPARSE = ("Quest", "LessIsMore")  # keep all keys and read some
FLOOR = "no context"
SEVERAL = ("multikey 1", "multikey 2")  # tasks with needles beside the one that is asked for
BOUNDED = ("SnapKV", "H2O", "StreamingLLM, re-anchored", "window + sinks", "KVzip")
FEWEST = 10  # pairs that are worth a comparison
OURS = ("TTT", "notepad", "consolidated", "next-token", "full fine")


def answers(row: dict[str, Any], inside: bool, task: str | None = None) -> list[dict[str, Any]]:
    """Stored answers about needles inside or outside the window, failures left out."""
    chosen = row.values() if task is None else [row.get(task, {})]
    return [a for by_index in chosen for a in by_index.values() if "failed" not in a and is_inside(a) == inside]


def is_inside(answer: dict[str, Any]) -> bool:
    return answer["stratum"] == INSIDE


def outside(row: dict[str, Any], task: str | None = None) -> dict[tuple[str, str], bool]:
    """Whether each needle outside the window was found, by task and number, failures left out."""
    return {
        (of, index): answer["right"]
        for of, by_index in row.items()
        for index, answer in by_index.items()
        if task in (None, of) and "failed" not in answer and not is_inside(answer)
    }


def share_right(found: Iterable[dict[str, Any]]) -> str:
    return share([answer["right"] for answer in found])


def interval(found: Iterable[dict[str, Any]]) -> str:
    """95% interval of a share, Wilson's."""
    right = [answer["right"] for answer in found]
    if not right:
        return "-"
    low, high = Share(sum(right), len(right)).interval
    return f"{low:.2f}-{high:.2f}"


def paired(one: dict[str, Any], other: dict[str, Any]) -> Difference | None:
    """Difference of the recalls of needles outside the window that both were asked for."""
    ours, theirs = outside(one), outside(other)
    return difference([(right, theirs[needle]) for needle, right in ours.items() if needle in theirs])


def mebibytes(row: dict[str, Any]) -> str:
    sizes = [answer["bytes"] for answer in (*answers(row, True), *answers(row, False))]
    return f"{sum(sizes) / len(sizes) / 2**20:.2f}" if sizes else "-"


def wins(rows: dict[str, Any], tasks: list[str]) -> list[str]:
    """Where what keeps everything finds more than the best of what is bounded, task by task, on the same needles."""
    asked = [name for name in UNBOUNDED if name in rows]
    if not asked:
        return ["- Neither was asked."]
    bounded = [name for name in rows if name not in (*UNBOUNDED, *SPARSE, FLOOR) and not name.endswith(ASKED)]
    found = []
    for name in asked:
        for task in tasks:
            own = outside(rows[name], task)
            right = {other: outside(rows[other], task) for other in bounded}
            shares = {
                other: sum(theirs[needle] for needle in own) / len(own)
                for other, theirs in right.items()
                if own and own.keys() <= theirs.keys()  # others were asked less
            }
            if shares and sum(own.values()) / len(own) > max(shares.values()):
                best = max(shares, key=shares.__getitem__)
                found.append(f"- {name} wins on {task}: {sum(own.values()) / len(own):.2f}, {best} {shares[best]:.2f}")
    return found or [f"- Of {' and '.join(asked)}, none does."]


def noted(rows: dict[str, Any], tasks: list[str]) -> list[list[str]]:
    """Of needles outside the window, whether the rarest sentences hold them, and whether the model then finds them."""
    table = []
    for name in (name for name in RARE if name in rows):
        for task in tasks:
            far = [a for a in answers(rows[name], False, task) if "held" in a]
            held = [a for a in far if a["held"]]
            if far:
                table.append([name, task, str(len(far)), f"{len(held) / len(far):.2f}", share_right(held)])
    return table


def unanswered(rows: dict[str, Any]) -> list[str]:
    """What is not in the tables, and why."""
    said = []
    for name, row in rows.items():
        reasons = [a["failed"] for by_index in row.values() for a in by_index.values() if "failed" in a]
        said += [f"- {name}: cannot answer {reasons.count(why)}, {why}" for why in dict.fromkeys(reasons)]
    missing = [name for name in ROWS if name not in rows]
    return said + ([f"- Not asked: {', '.join(missing)}"] if missing else [])


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings = report["settings"]
    rows = {name: report["rows"][name] for name in ROWS if name in report["rows"]}
    every = [a for row in rows.values() for a in (*answers(row, False), *answers(row, True))]
    tasks = [task for task in TASKS if any(task in row for row in rows.values())]
    table, strata, single, compared = [], [], [], []
    for name, row in rows.items():
        far = answers(row, inside=False)
        by_depth = [[a for a in far if a["stratum"] == str(stratum)] for stratum in range(STRATA)]
        strata.append([name, *map(share_right, by_depth), share_right(answers(row, True))])
        alone = [a for task in tasks if task not in SEVERAL for a in answers(row, False, task)]
        single.append([name, str(len(alone)), share_right(alone), interval(alone)])
        if name.removesuffix(ASKED) in rows and name.endswith(ASKED):
            continue  # a column of the row without the question
        table.append([
            name, str(len(far)), share_right(far), interval(far),
            share_right(answers(rows.get(name + ASKED, {}), False)),
            *(share_right(answers(row, False, task)) for task in tasks), share_right(answers(row, True)),
            str(len(answers(row, True))), mebibytes(row),
        ])  # fmt: skip
    for name in (name for name in rows if name.startswith(OURS)):
        for other in (other for other in (FLOOR, *BOUNDED, *UNBOUNDED) if other in rows):
            if (found := paired(rows[name], rows[other])) is not None and found.pairs >= FEWEST:
                size = f"{mebibytes(rows[name])} / {mebibytes(rows[other])}"
                compared.append([name, other, str(found), str(found.pairs), found.verdict, size])
    header = ["system", "n", "outside", "95%", "question known", *tasks, "inside", "n inside", "MiB"]
    sizes = [answer["tokens"] for answer in every] or [0]
    state = settings["window"] - 1 + settings["sinks"]
    length = settings["answer_tokens"]
    few = max((len(answers(row, False, task)) for row in rows.values() for task in tasks), default=0)
    return [
        f"{settings['model']}, contexts of {min(sizes):,} to {max(sizes):,} tokens. Windows, eviction and notepads "
        f"keep keys and values of {state} tokens at most, as many as a window of {settings['window']} and "
        f"{settings['sinks']} sinks. Others keep something else, see *MiB*: TTT also its fast weights and an "
        "unfinished chunk, Quest and LessIsMore every key, BM25 the whole text, training its weights. Eviction and "
        "notepads choose after a full read, for which every key is there; rare sentences kept as text need none.",
        "",
        "Share of needles found by the state alone, *outside* the window and *inside*. *Question known*: outside, "
        "where the question, read with everything in view, chose what is kept. A single task's share is of "
        f"{few} needles at most: a hint, no finding. Answers end after {length['number']} tokens, those with a uuid "
        f"after {length['uuid']}.",
        "",
        f"Asked by {', '.join(f'`{command}`' for command in report['commands'])}.",
        "",
        *markdown_table(header, table),
        "",
        f"Needles that stand alone (all but {' and '.join(SEVERAL)}), outside the window:",
        "",
        *markdown_table(["system", "n", "found", "95%"], single),
        "",
        "What notepads hold of the needles outside the window, and what the model finds of those that they hold:",
        "",
        *markdown_table(["system", "task", "n", "held", "found of those"], noted(rows, tasks)),
        "",
        "By depth of the needle, outside the window from the beginning on:",
        "",
        *markdown_table(["system", "1st fifth", "2nd", "3rd", "4th", "last", "inside"], strata),
        "",
        f"Outside the window, paired by needle, 95% intervals by bootstrap; of {FEWEST} needles at least:",
        "",
        *markdown_table(["system", "against", "difference", "n", "finds", "MiB of both"], compared),
        "",
        "Where full attention or BM25, which keep everything, find more outside the window than any bounded state:",
        "",
        *wins(rows, tasks),
        "",
        "What is missing:",
        "",
        *(unanswered(rows) or ["- Nothing."]),
        "",
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    """Recall of each system, outside and inside the window."""
    from .plots import recall_bars

    def shares(found: list[dict[str, Any]]) -> Share | None:
        return Share(sum(a["right"] for a in found), len(found)) if found else None

    rows = {name: report["rows"][name] for name in ROWS if name in report["rows"]}
    bars = {name: (shares(answers(row, False)), shares(answers(row, True))) for name, row in rows.items()}
    settings = report["settings"]
    title = (
        f"Needles found in up to {settings['tokens']:,} tokens, after a read that keeps\nstate for a window of "
        f"{settings['window']} tokens ({settings['model']})"
    )
    recall_bars(bars, path, title, ("needles outside the window", "inside"))
