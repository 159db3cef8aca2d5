"""What is left of a conversation of many sessions when its keys and words are gone, at the same retained bytes?

Recall by type of question and by how long ago it was said, stale answers about what has changed, interference (answers
that hold another fact of the conversation; change of the loss on unrelated text), abstention. Nothing is chosen by the
question but what BM25 retrieves, and in the column that says so. `--state` is the tokens whose keys and values every
bounded row keeps; the default takes about as many bytes of the default model as a memory of the default rank with its
lessons, 624 as many as that and its notepad. The table gives the bytes, and says where two differ.

    python -m benchmarks.memory_over_turns                     # five conversations; memories are slow and named apart
    python -m benchmarks.memory_over_turns --only "consolidated memory" "consolidated memory + notepad"
    python -m benchmarks.memory_over_turns --state 624         # another table; memories are not made again for it
    python -m benchmarks.memory_over_turns --quick             # one conversation, every third question
    python -m benchmarks.memory_over_turns --locomo locomo10.json --only BM25 "no context"

Rows that were measured with the same settings are kept, so a run that was cut off goes on where it was, and a later one
adds its rows. A row that cannot answer says why, and is asked again next time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from .baselines import LORA_STEPS
from .harness.options import command_line, stored_as
from .harness.prompts import ANSWER_TOKENS
from .harness.rows import attempt
from .harness.store import Store, console
from .harness.tables import Difference, Share, difference, markdown_table, share
from .sessions import Sessions, draw, locomo
from .turns_rows import LORA_PART, NOTES, ROWS, SLOW, Answered, Bench, scored

NAME, STATE = "memory_over_turns", 416
QUICK, EVERY = ("no context", "SnapKV", "KVzip", "notepad + last messages", "BM25"), 3  # rows, and every third question
ASKED = ", question known"  # how rows end that chose by the question
UNBOUNDED = ("full context", "BM25")  # keep all keys, or all of the text
FLOOR = "no context"
OURS = ("consolidated", "notepad")
EXACT = ("SnapKV", "H2O", "StreamingLLM")  # hold the keys and values of the state, to the byte
SAME = 0.05  # share by which bytes may differ and count as the same
COLUMNS = 6  # of recall by lag, at most
KINDS = ("single-session, user", "single-session, assistant", "multi-session", "temporal", "knowledge update")


def measured(rows: dict[str, Any], name: str) -> dict[str, Any]:
    """What is stored of a row, by conversation, failures left out."""
    return {number: stored for number, stored in sorted(rows.get(name, {}).items()) if "failed" not in stored}


def answers(rows: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """All answers of a row, in an order that rows share."""
    return [answer for stored in measured(rows, name).values() for answer in stored["answers"]]


def paired(rows: dict[str, Any], one: str, other: str) -> Difference | None:
    """Difference in recall over the conversations that both were asked about."""
    ours, theirs = measured(rows, one), measured(rows, other)
    return difference([
        (a["right"], b["right"])
        for number in ours
        if number in theirs
        for a, b in zip(ours[number]["answers"], theirs[number]["answers"], strict=True)
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


def megabytes(rows: dict[str, Any], name: str) -> float:
    return fmean(stored["bytes"] for stored in measured(rows, name).values()) / 1e6


def sizes(rows: dict[str, Any], one: str, other: str) -> str:
    """The megabytes of both, and whether they are not the same."""
    a, b = megabytes(rows, one), megabytes(rows, other)
    return f"{a:.2f} / {b:.2f}" + (", unequal" if abs(a - b) > SAME * max(a, b) else "")


def equal_states(rows: dict[str, Any], state: int) -> list[str]:
    """Which state would take as many bytes as each memory: how much a memory keeps depends on the conversation."""
    exact = [name for name in EXACT if name in rows]
    return [
        f"{name}: as many bytes as --state {state * megabytes(rows, name) / megabytes(rows, exact[0]):.0f}."
        for name in rows
        if name.startswith("consolidated") and exact
    ]


def wins(rows: dict[str, Any], kinds: Sequence[str]) -> list[str]:
    """Where what keeps everything recalls more than the best of what is bounded, by kind of question."""
    asked = [name for name in UNBOUNDED if measured(rows, name)]
    bounded = [name for name in rows if name not in (*UNBOUNDED, FLOOR) and not name.endswith(ASKED)]
    found = []
    compared = False
    for name in asked:
        # Others were asked about fewer conversations, or more.
        alike = [other for other in bounded if measured(rows, other).keys() == measured(rows, name).keys()]
        for kind in (None, *kinds) if alike else ():
            compared = True
            best = max(alike, key=lambda other: sum(recall(rows, other, kind)))
            own, others = recall(rows, name, kind), recall(rows, best, kind)
            if sum(own) > sum(others):
                found.append(f"- {name} wins on {kind or 'all questions'}: {share(own)}, {best} {share(others)}")
    return found or (["- Of those asked, none does."] if compared else ["- Not asked so far."])


def unanswered(rows: dict[str, Any]) -> list[str]:
    """What is not in the tables, and why; and what was said of what is."""
    said = []
    for name, row in rows.items():
        for number, stored in sorted(row.items()):
            if "failed" in stored or stored.get("remark"):
                why = f"cannot answer, {stored['failed']}" if "failed" in stored else stored["remark"]
                said.append(f"- {name}, conversation {number}: {why}")
    missing = [name for name in ROWS if name not in rows]
    return said + ([f"- Not asked: {'; '.join(missing)}"] if missing else [])


def drift(row: dict[str, Any]) -> str:
    """The largest change of the loss on unrelated text, up or down."""
    changes = [change for stored in row.values() for change in stored["drift"].values()]
    return f"{max(changes, key=abs):+.1%}" if changes else "-"


def changed(row: dict[str, Any]) -> str:
    """The share of general questions that are answered otherwise."""
    shares = [stored["changed"] for stored in row.values() if stored.get("changed") is not None]
    return f"{fmean(shares):.0%}" if shares else "-"


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    settings = report["settings"]
    every = {name: report["rows"][name] for name in ROWS if name in report["rows"]}
    rows = {name: row for name in every if (row := measured(every, name))}
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
            drift(row), changed(row), share(recall(rows, name, "abstention")), f"{megabytes(rows, name):.2f}",
        ])  # fmt: skip
    plain_rows = [name for name in rows if not name.startswith(OURS) and not name.endswith(ASKED)]
    for name in (name for name in rows if name.startswith(OURS)):
        for other in plain_rows:
            if (found := paired(rows, name, other)) is not None:
                compared.append([name, other, str(found), str(found.pairs), found.verdict, sizes(rows, name, other)])
    header = ["system", "n", "recall", "question known", *kinds, *others, "F1", "stale", "mixed up", "drift",
              "others changed", "abstains", "MB"]  # fmt: skip
    ago = [str(lag.start) if len(lag) == 1 else f"{lag.start}-{lag.stop - 1}" for lag in lags(report["sessions"])]
    conversations = max((len(row) for row in rows.values()), default=0)
    return [
        f"{settings['model']}, {conversations} conversations of up to {report['sessions']} sessions; bounded "
        f"rows keep keys and values of {settings['state']} tokens. Share of questions answered rightly; *question "
        "known*: where the question chose what is kept; *stale*: the old value of what has changed; *mixed up*: wrong, "
        "with the answer to another question; *drift*: the largest change of the loss on unrelated prose and code; "
        "*others changed*: general questions that are answered otherwise; *abstains*: declines what was never said. "
        "Bytes while it answers, a memory's with the lessons that it keeps; BM25 and summaries: of the text on disk.",
        "",
        *markdown_table(header, table),
        "",
        "By how many sessions ago it was said, dates and corrections left out:",
        "",
        *markdown_table(["system", *ago], by_lag),
        "",
        f"Difference in recall, 95% by paired bootstrap over questions; *unequal*: bytes that differ by more than "
        f"{SAME:.0%}:",
        "",
        *markdown_table(["system", "against", "difference", "n", "recalls", "MB of both"], compared),
        "",
        *(line for state in equal_states(rows, settings["state"]) for line in (state, "")),
        "Where the full context or BM25, which keep everything, recall more than any bounded state:",
        "",
        *wins(rows, [*kinds, *others]),
        "",
        *(["What is missing, and what was not accepted:", "", *said, ""] if (said := unanswered(every)) else []),
    ]


def plot(report: dict[str, Any], path: Path) -> None:
    from .plots import recall_bars

    def shares(found: list[bool]) -> Share | None:
        return Share(sum(found), len(found)) if found else None

    rows = report["rows"]
    bars = {
        name: (shares(recall(rows, name)), shares(recall(rows, name, "abstention")))
        for name in ROWS
        if measured(rows, name)
    }
    if bars:
        talks = max(len(row) for row in rows.values())
        title = f"Answers after {talks} conversations of {report['sessions']} sessions ({report['settings']['model']})"
        recall_bars(bars, path, title, ("right answers", "declined, where nothing was said"))


def asked(bench: Bench, row: str) -> dict[str, Any]:
    """What a row answers about the conversation, or why it cannot."""
    began = time.perf_counter()

    def stored(given: Answered) -> dict[str, Any]:
        return {
            "answers": scored(bench.talk, given.answers), "bytes": given.nbytes, "drift": dict(given.drift),
            "changed": given.changed, "remark": given.remark, "talk": bench.talk.digest,
            "seconds": time.perf_counter() - began,
        }  # fmt: skip

    return attempt(bench, ROWS[row], stored)


def check_talks(rows: dict[str, Any], talks: Sequence[Sessions]) -> None:
    """Raises `SystemExit` where rows that are stored are about other conversations than these."""
    for row in rows.values():
        for number, stored in row.items():
            if int(number) < len(talks) and stored.get("talk", talks[int(number)].digest) != talks[int(number)].digest:
                raise SystemExit(
                    f"The stored rows are about another conversation {number}. Move the result away to begin anew."
                )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b", quick="one conversation, every third question", full=True)
    parser.add_argument("--conversations", type=int, default=5)
    parser.add_argument("--state", type=int, default=STATE)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="rows; slow ones run only when they are named")
    parser.add_argument("--locomo", type=Path, help="locomo10.json, instead of conversations of our own")
    parser.add_argument(
        "--questions", type=int, default=30, help="of each conversation of LoCoMo; a fifth has no answer"
    )
    options = parser.parse_args(arguments)
    only = options.only or (QUICK if options.quick else [name for name in ROWS if name not in SLOW])
    conversations = 1 if options.quick else options.conversations
    if options.locomo:
        talks = locomo(options.locomo, options.questions)
    else:
        talks = [draw(seed) for seed in range(conversations)]
    if options.quick:
        talks = [replace(talk, asked=talk.asked[::EVERY]) for talk in talks]

    special = [*(["locomo"] if options.locomo else []), *([options.state] if options.state != STATE else [])]
    name = stored_as(NAME, *special, quick=options.quick)
    of_talks = ("questions",) if options.locomo else ()
    # All that an answer depends on: none may be mixed with those of another recipe.
    settings = {key: getattr(options, key) for key in ("model", "state", "sinks", *of_talks)} | {
        "answer_tokens": ANSWER_TOKENS, "notes": NOTES, "lora_steps": LORA_STEPS, "lora_part": LORA_PART,
    }  # fmt: skip
    store = Store.of_all(name, settings, lines)
    report, rows = store.report, store.rows
    check_talks(rows, talks)
    sessions = (talk.sessions for talk in talks[:conversations])
    report["sessions"] = max(report.get("sessions", 0), *sessions)

    bench = Bench(options.model, options.state, options.sinks)
    for number, talk in enumerate(talks[:conversations]):
        missing = [row for row in only if "answers" not in rows.get(row, {}).get(str(number), {})]
        if missing:
            bench.take(talk)
        for row in missing:
            stored = rows.setdefault(row, {})[str(number)] = asked(bench, row)
            store.save()
            right = [one["right"] for one in stored.get("answers", ()) if one["kind"] != "abstention"]
            said = stored.get("failed") or f"{share(right)} in {stored['seconds']:.0f} s"
            console.print(f"conversation {number}, {row}: {said}", markup=False)
    plot(report, store.save() / f"{name}.png")
    store.show()


if __name__ == "__main__":
    main()
