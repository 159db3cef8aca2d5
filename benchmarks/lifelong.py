"""Ten conversations, one after the other: is the first still known after the tenth, and what of facts that changed?

python -m benchmarks.lifelong                     # ten conversations
python -m benchmarks.lifelong --plan corrections

Every answer is given in a fresh process that never saw a conversation. Memories are kept in `--work`, figures in
`results/lifelong.json`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .consolidation import recall
from .conversations import (
    CARS,
    CITIES,
    FOODS,
    JOBS,
    RELATIONS,
    Conversation,
    Fact,
    conversation,
    correct,
    facts,
)
from .harness.english import holds, words
from .harness.loading import carrier, tokenizer_of
from .harness.machine import machine
from .harness.options import command_line
from .harness.prompts import Message, Recollector
from .harness.recollect import changed, in_fresh_process
from .harness.store import Store, dated, days, stored_report
from .harness.tables import markdown_table
from .storage import cache_directory

NAME = "lifelong"
CONVERSATIONS, FACTS, TURNS = 10, 6, 5
ASKED_AFTER = (1, 2, 5, 10)  # conversations
CORRECTED = 10
BANK = "bank"  # of entries, one for each conversation
STRIDE = 7  # from a question to the one that comes before it in a chat: of another conversation
BUDGET = {"steps": 150}  # of one consolidation, the same for a bank and for one memory written anew
PEOPLE = ("Zelda", "Bogdan", "Thandi", "Ewan", "Paavo", "Miriam", "Lorcan", "Sunniva")  # in no other fact

# What one conversation says about somebody, and what a later one says about the same person; asked without the name.
HALVES: tuple[tuple[str, str, str, Sequence[str]], ...] = (
    ("My godson is called {p}.", "{p} works as a {v}.", "What is my godson's job?", JOBS),
    ("My best friend is {p}.", "{p} lives in {v}.", "In which city does my best friend live?", CITIES),
    ("My chess partner is {p}.", "{p} is allergic to {v}.", "What is my chess partner allergic to?", FOODS),
    ("The trainer of my team is {p}.", "{p} drives a {v}.", "What car does the trainer of my team drive?", CARS),
    ("My landlady is called {p}.", "{p} comes from {v}.", "Where does my landlady come from?", CITIES),
)  # fmt: skip


def draw(seed: int) -> tuple[list[Conversation], list[Fact]]:
    """Conversations of facts that no two of them share, and questions that take two of them to answer."""
    generator = random.Random(1000 + seed)
    relations = generator.sample(range(len(RELATIONS)), CONVERSATIONS * FACTS)
    people = generator.sample(PEOPLE, len(HALVES))
    talks, together = [], []
    for number in range(CONVERSATIONS):
        own = facts(FACTS, generator, relations[number * FACTS : (number + 1) * FACTS])
        named, told, question, values = HALVES[number % len(HALVES)]
        person, value = people[number % len(HALVES)], generator.choice(values)
        said = (named if number < len(HALVES) else told).format(p=person, v=value)
        extra = Fact(said, question, value, -1)
        talk = conversation([*own, extra], TURNS, generator)
        talks.append(Conversation(talk.messages, tuple(own)))
        if number >= len(HALVES):
            together.append(extra)
    return talks, together


def successive(options: argparse.Namespace, row: dict[str, Any]) -> dict[str, Any]:
    """Recall of each conversation right after it, and of the first ones later."""
    talks, together = draw(options.seed)
    model, tokenizer = carrier(options.model), tokenizer_of(options.model)
    kept = options.work / BANK / str(options.seed)
    for number, talk in enumerate(talks, start=1):
        directory = kept / str(number)
        if str(number) in row["right_after"]:
            if any(list(row["accepted"].values())[:number]):
                model.load_memory(directory)
            continue
        learn(model, tokenizer, talk, kept, row, number)
        asked = [*talk.facts, *(talks[0].facts if number in ASKED_AFTER else ())]
        answers = recollected(model, tokenizer, options, directory, asked)
        row["right_after"][str(number)] = recall(answers[:FACTS], talk.facts)
        if number in ASKED_AFTER:
            row["first"][str(number)] = recall(answers[FACTS:], talks[0].facts)
        row["bytes"] = 0 if model.memory is None else model.memory.nbytes
        keep(options, row)
    every = [fact for talk in talks for fact in talk.facts]
    row["changed"] = 0.0 if model.memory is None else changed(model, tokenizer, model.memory)
    answers = recollected(model, tokenizer, options, kept / "all", [*every, *together])
    row["all_at_the_end"] = recall(answers[: len(every)], every)
    row["together"] = recall(answers[len(every) :], together)
    in_a_chat = recollected(
        model, tokenizer, options, kept / "all", every, [another(every, n) for n in range(len(every))]
    )
    row["in_a_chat"] = recall(in_a_chat, every)
    in_view = [message for talk in talks for message in talk.messages]
    told = Recollector(model, tokenizer).answers([(in_view, fact.question) for fact in together])
    row["together_full_context"] = recall(told, together)
    return row


def learn(
    model: Any,
    tokenizer: Any,
    talk: Conversation,
    kept: Path,
    row: dict[str, Any],
    number: int,
) -> None:
    """Consolidate one conversation, and note what that cost."""
    report = model.consolidate(
        list(talk.messages), tokenizer=tokenizer, budget=BUDGET, progress=True, work_dir=kept
    ).report
    row["accepted"][str(number)], row["steps"][str(number)] = report.accepted, report.steps
    row["reason"][str(number)] = report.reason
    row["seconds"][str(number)] = sum(report.seconds.values())


def another(facts: Sequence[Fact], number: int) -> list[Message]:
    """Another of the questions, and its answer: what a question comes after in a chat that goes on."""
    other = facts[(number * STRIDE + 3) % len(facts)]
    return [{"role": "user", "content": other.question}, {"role": "assistant", "content": other.said}]


def recollected(
    model: Any,
    tokenizer: Any,
    options: argparse.Namespace,
    directory: Path,
    asked: Sequence[Fact],
    before: Sequence[Sequence[Message]] | None = None,
) -> list[str]:
    """Answers out of the model's memory, kept in `directory`, in a fresh process; of the base where it has none."""
    questions = [fact.question for fact in asked]
    if model.memory is None:  # nothing was accepted so far
        return Recollector(model, tokenizer).answers([*zip(before or [[]] * len(asked), questions)])
    model.memory.save(directory)
    return in_fresh_process(options.model, str(directory), questions, before)["answers"]


def corrections(options: argparse.Namespace, row: dict[str, Any]) -> dict[str, Any]:
    """Facts of one conversation that a later one changes: the new value, the old one, or neither."""
    generator = random.Random(2000 + options.seed)
    first = facts(CORRECTED, generator)
    changed = [correct(fact, generator) for fact in first]
    model, tokenizer = carrier(options.model), tokenizer_of(options.model)
    kept = options.work / "corrections" / BANK / str(options.seed)
    for number, told in enumerate((first, changed), start=1):
        talk = conversation(told, 8, generator)
        learn(model, tokenizer, talk, kept, row, number)
        row["answers"][str(number)] = recollected(model, tokenizer, options, kept / str(number), first)
    row["before"] = recall(row["answers"]["1"], first)
    row["new"] = recall(row["answers"]["2"], changed)
    row["stale"] = sum(holds(a, words(f.answer)) for a, f in zip(row["answers"]["2"], first)) / CORRECTED
    return row


PLANS = {"successive": successive, "corrections": corrections}
Find = Callable[[dict[str, Any]], float | None]
# What each plan's table shows of a row, and how.
TABLES: dict[str, dict[str, tuple[Find, str]]] = {
    "successive": {
        "accepted": (lambda row: statistics.mean(row["accepted"].values()), ".0%"),
        "right after": (lambda row: statistics.mean(row["right_after"].values()), ".0%"),
        **{f"first after {n}": (lambda row, n=n: row["first"][str(n)], ".0%") for n in ASKED_AFTER},
        "all at the end": (lambda row: row["all_at_the_end"], ".0%"),
        "in a chat": (lambda row: row["in_a_chat"], ".0%"),
        "both together": (lambda row: row["together"], ".0%"),
        "both, full context": (lambda row: row["together_full_context"], ".0%"),
        "others changed": (lambda row: row.get("changed"), ".0%"),
        "seconds each": (lambda row: statistics.mean(row["seconds"].values()), ".0f"),
        "MB": (lambda row: row["bytes"] / 1e6, ".1f"),
    },
    "corrections": {
        "before": (lambda row: row["before"], ".0%"),
        "new value": (lambda row: row["new"], ".0%"),
        "old value": (lambda row: row["stale"], ".0%"),
    },
}


def page(report: dict[str, Any]) -> list[str]:
    """The tables of all rows measured so far: means over seeds, with the least and the most of them."""
    rows = report["rows"]
    lines = [
        f"{CONVERSATIONS} conversations of {FACTS} facts in {TURNS} turns; {CORRECTED} facts corrected. "
        f"At most {BUDGET['steps']} steps for each. In a chat: at the end, each question after another and its answer.",
        "",
    ]
    for plan, columns in TABLES.items():
        done = {key: row for key, row in rows.items() if key.startswith(plan) and row.get("done")}
        body = []
        for kind in sorted({key.split(", ")[1] for key in done}):
            several = [row for key, row in done.items() if key.split(", ")[1] == kind]
            shown = [over(several, find, form) for find, form in columns.values()]
            body.append([kind, str(len(several)), *shown, days(several)])
        lines += [*markdown_table(["memory", "seeds", *columns, "measured"], body), ""] if body else []
    return lines


def over(rows: Sequence[dict[str, Any]], find: Find, shown: str) -> str:
    """The mean of a figure over some rows, and its range."""
    found = [figure for row in rows if (figure := find(row)) is not None]
    if not found:
        return "-"
    mean, least, most = (format(value, shown) for value in (statistics.mean(found), min(found), max(found)))
    return mean if least == most else f"{mean} ({least} to {most})"


def key_of(options: argparse.Namespace) -> str:
    """The row of a run. Results hold a row of one entry written anew for each context, too, which is no option now."""
    return f"{options.plan}, {BANK}, seed {options.seed}"


def store() -> Store:
    """All rows, as they are stored now: runs of other seeds may go on meanwhile."""
    return Store(NAME, {"machine": machine(), "rows": stored_report(NAME).get("rows", {})}, page)


def keep(options: argparse.Namespace, row: dict[str, Any]) -> None:
    """Keep a row, finished or not."""
    kept = store()
    kept.report = {"model": options.model, **kept.report}
    kept.add({key_of(options): row})


def main() -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b")
    parser.add_argument("--plan", choices=list(PLANS), default="successive")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=cache_directory() / NAME, help="where memories are kept meanwhile")
    options = parser.parse_args()
    empty = {name: {} for name in ("accepted", "reason", "seconds", "steps", "right_after", "first", "answers")}
    row = store().rows.get(key_of(options), empty)
    keep(options, row if row.get("done") else dated(PLANS[options.plan](options, row) | {"done": True}))
    store().show()


if __name__ == "__main__":
    main()
