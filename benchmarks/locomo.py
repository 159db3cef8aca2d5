"""LoCoMo, lived session after session: what is known after the last one, from the words or from a memory?

python -m benchmarks.locomo locomo10.json                                      # every row of every conversation: days
python -m benchmarks.locomo locomo10.json --sessions 6 --conversations 2 --model qwen2.5-1.5b
python -m benchmarks.locomo locomo10.json --writer http://127.0.0.1:8080/v1#name --only "all facts" BM25
python -m benchmarks.locomo locomo10.json --quick                              # two sessions of one conversation

The data set (CC BY-NC 4.0) is no part of the project: results hold figures alone. Each row of each conversation is
kept, and so are the facts and the memory of each session, in `--work`: a run that was cut off goes on where it was.
Answers lie there, too. After a change of how facts or memories are made, give another directory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from .harness.asker import Asker
from .harness.options import command_line, stored_as
from .harness.store import Store, dated, days
from .harness.tables import difference, markdown_table, share
from .locomo_rows import ANSWER_TOKENS, BEST, INSTRUCTION, ROWS, Bench, write
from .locomo_score import score
from .locomo_talks import ADVERSARIAL, KINDS, Talk, read
from .memory_over_turns import lags
from .storage import cache_directory

NAME = "locomo"
SLOW = "next-token LoRA"  # an hour, of two sessions: not in the quick form
QUICK_SESSIONS, QUICK_QUESTIONS, QUICK_SECONDS = 2, 20, 120.0
SAID = [kind for kind in KINDS.values() if kind != ADVERSARIAL]
OURS = ("consolidated memory", "memory + waiting facts")
Given = dict[str, Any]  # what is stored of one answer


def measure(bench: Bench, row: str, talk: Talk) -> dict[str, Any]:
    """What a row answers about one conversation, in figures; the answers themselves stay in the work directory."""
    given = ROWS[row](bench, talk)
    scores = [score(asked, text) for asked, text in zip(talk.asked, given.texts, strict=True)]
    said = [asdict(asked) | {"given": text} for asked, text in zip(talk.asked, given.texts)]
    write(bench.work / "answers" / bench.asker.name / row / f"{talk.name}.json", said)
    return dated(
        {
            "answers": [
                {"kind": asked.kind, "ago": talk.ago(asked), **found._asdict()}
                for asked, found in zip(talk.asked, scores)
            ],
            "sessions": len(talk.sessions), "tokens": given.tokens, "asking": given.asking, "making": given.making,
            "remark": given.remark,
        }
    )  # fmt: skip


def unit(row: str, talk: str) -> str:
    """The name under which a row of one conversation is stored."""
    return f"{row}: {talk}"


def measured(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What is stored, by row and conversation."""
    found: dict[str, dict[str, Any]] = {row: {} for row in ROWS}
    for name, stored in sorted(rows.items()):
        row, _, talk = name.partition(": ")
        found[row][talk] = stored
    return {row: talks for row, talks in found.items() if talks}


def answers(talks: dict[str, Any]) -> list[Given]:
    return [given for stored in talks.values() for given in stored["answers"]]


def mean(given: Sequence[Given]) -> str:
    """Token F1, of 100 as it is published."""
    return f"{100 * fmean(one['f1'] for one in given):.1f}" if given else "-"


def said(given: Sequence[Given]) -> list[Given]:
    """Answers to what was said."""
    return [one for one in given if one["kind"] != ADVERSARIAL]


def never_said(given: Sequence[Given]) -> list[Given]:
    return [one for one in given if one["kind"] == ADVERSARIAL]


def scores(row: str, talks: dict[str, Any]) -> list[str]:
    given = answers(talks)
    asked = said(given)
    return [
        row, str(len(talks)), str(len(given)), mean(asked), share([one["right"] for one in asked]),
        share([one["declined"] for one in never_said(given)]), share([one["declined"] for one in asked]),
        f"{sum(stored['tokens'] * len(stored['answers']) for stored in talks.values()) / len(given):,.0f}",
        f"{sum(stored['making'] for stored in talks.values()) / sum(s['sessions'] for s in talks.values()):.1f}",
        f"{sum(stored['asking'] for stored in talks.values()) / len(given):.1f}", days(talks.values()),
    ]  # fmt: skip


def by_kind(row: str, talks: dict[str, Any]) -> list[str]:
    cells = [row]
    for kind in SAID:
        given = [one for one in answers(talks) if one["kind"] == kind]
        cells.append(f"{mean(given)} / {share([one['right'] for one in given])} of {len(given)}")
    return cells


def by_age(row: str, talks: dict[str, Any], ages: Sequence[range]) -> list[str]:
    asked = said(answers(talks))
    return [row, *(mean([one for one in asked if one["ago"] in ago]) for ago in ages)]


def compared(rows: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Memories against the rows that have the words, over the conversations that both were asked about."""
    found = []
    for ours in (row for row in OURS if row in rows):
        for other in (row for row in rows if row not in OURS):
            both = [talk for talk in rows[ours] if talk in rows[other]]
            one, two = (said(answers({talk: rows[row][talk] for talk in both})) for row in (ours, other))
            if (apart := difference([(a["f1"], b["f1"]) for a, b in zip(one, two, strict=True)])) is not None:
                found.append([ours, other, f"{mean(one)} / {mean(two)}", str(apart), str(apart.pairs), apart.verdict])
    return found


def page(report: dict[str, Any]) -> list[str]:
    settings, rows = report["settings"], measured(report["rows"])
    stored = [one for talks in rows.values() for one in talks.values()]
    ages = lags(max((one["sessions"] for one in stored), default=1))
    ago = [str(age.start) if len(age) == 1 else f"{age.start}-{age.stop - 1}" for age in ages]
    read = "all sessions" if settings["sessions"] is None else f"the first {settings['sessions']} sessions"
    remarks = [f"- {name}: {one['remark']}." for name, one in report["rows"].items() if one["remark"]]
    header = ["row", "talks", "n", "F1", "right", "declined, never said", "declined, said", "tokens",
              "s a session", "s a question", "measured"]  # fmt: skip
    return [
        f"{settings['model']}, facts written by {settings['writer'] or 'itself'}; {read} of each conversation, at most "
        f"{settings['questions']} questions of each, evenly by category. *F1*: of stems, of 100, without adversarial "
        "questions. *right*: the answer has every content word of the right one. *declined*: adversarial questions, "
        f"about what was never said, and the others. *tokens*: of a prompt, mean. BM25 finds {BEST} turns or facts. "
        "Seconds: of what is made of a session, and of asking.",
        "",
        *markdown_table(header, [scores(row, talks) for row, talks in rows.items()]),
        "",
        "F1 and share right, of how many, by category:",
        "",
        *markdown_table(["row", *SAID], [by_kind(row, talks) for row, talks in rows.items()]),
        "",
        "F1 by how many sessions ago the last of the evidence was said, without adversarial questions:",
        "",
        *markdown_table(["row", *ago], [by_age(row, talks, ages) for row, talks in rows.items()]),
        "",
        *(
            ["Difference in F1 (of 1) on the same questions, 95% by paired bootstrap:", "",
             *markdown_table(["row", "against", "F1 of both", "difference", "n", "has"], pairs), ""]
            if (pairs := compared(rows)) else []
        ),
        *([*remarks, ""] if remarks else []),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b", quick="2 sessions of one conversation, 20 questions")
    parser.add_argument("file", type=Path)
    parser.add_argument("--sessions", type=int, help="the first of each conversation; default: all")
    parser.add_argument("--conversations", type=int, help="the first of the file; default: all")
    parser.add_argument(
        "--writer",
        help="of the facts: a model by its name, or the address of a server, with #MODEL where it has several",
    )
    parser.add_argument("--questions", type=int, default=50, help="of each conversation, evenly by category")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), help="rows; default: all")
    parser.add_argument("--work", type=Path, default=cache_directory() / NAME, help="where facts and memories are kept")
    options = parser.parse_args(arguments)
    sessions, conversations, questions = options.sessions, options.conversations, options.questions
    only = options.only or list(ROWS)
    if options.quick:
        sessions, conversations, questions = QUICK_SESSIONS, 1, QUICK_QUESTIONS
        only = options.only or [row for row in ROWS if row != SLOW]
    talks = [talk.first(sessions).sample(questions) for talk in read(options.file)[:conversations]]

    writer = options.writer
    if writer is not None and writer.startswith("http"):
        writer = f"a server {writer.partition('#')[2]}".strip()  # where it runs helps nobody
    settings = {
        "model": options.model, "writer": writer, "sessions": sessions, "questions": questions,
        "file": options.file.name, "sha256": hashlib.sha256(options.file.read_bytes()).hexdigest()[:16],
        "instruction": INSTRUCTION, "answer_tokens": ANSWER_TOKENS,
    }  # fmt: skip
    special = [*([re.sub(r"[^\w.-]+", "_", writer)] if writer else []), *([f"{sessions}_sessions"] if sessions else [])]
    store = Store.of_all(stored_as(NAME, options.model, *special, quick=options.quick), settings, page)
    bench = Bench(Asker.of(options.model), options.writer, options.work, QUICK_SECONDS if options.quick else None)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        unit(row, talk.name): partial(measure, bench, row, talk) for row in ROWS if row in only for talk in talks
    }
    store.fill(measures)
    store.show()


if __name__ == "__main__":
    main()
