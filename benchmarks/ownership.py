"""Facts deleted and corrected one by one: is the old value answered, are the neighbours, is anything left on disk?

python -m benchmarks.ownership                             # ten changes of each of two memories
python -m benchmarks.ownership --memories 20 --changes 10  # all 200

Each memory is that of a conversation of twenty facts. Each change is made to a fresh copy of it, by a `ChatSession`
with `purge=True`. Questions are then asked of a session that was opened on the files. Memories and rows that are done
are kept, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ttt_retrofit import ChatSession, ConsolidationConfig, Memory
from ttt_retrofit.chat.fact_change import FactChange

from .consolidation import FACTS, TURNS, draw
from .conversations import RELATIONS, Conversation, Fact, correct
from .harness.english import holds, words
from .harness.loading import carrier, tokenizer_of
from .harness.options import command_line
from .harness.prompts import Message, Recollector
from .harness.store import Store
from .harness.tables import Share, markdown_table
from .left_on_disk import Left
from .storage import cache_directory

NAME = "ownership"
ASKED_FOR, MEMORIES, NEIGHBOURS = 200, 20, 0.98  # changes, memories, and the share of neighbours that is to stay
STRIDE = 7  # from one changed fact to the next: no fact of a memory is changed twice
IDLE = 24 * 3600.0  # seconds that a consolidation may take
# How much a memory changes elsewhere is noted, and decides nothing: what is measured is whether facts go and come.
CONFIG = ConsolidationConfig(max_changed=1.0)
DELETED, CORRECTED = "deleted", "corrected"


@dataclass
class Bench:
    """A model, and the memories that it made; `work` keeps them."""

    name: str
    work: Path

    @cached_property
    def model(self) -> Any:
        return carrier(self.name)

    @cached_property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.name)

    def session(self, directory: Path) -> ChatSession:
        return ChatSession(self.model, self.tokenizer, directory, keep_turns=0, config=CONFIG)

    def directory(self, seed: int) -> Path:
        return self.work / self.name / str(seed)

    def remembered(self, seed: int) -> dict[str, Any]:
        """Make the memory of a conversation, and ask for every fact of it; a killed consolidation goes on."""
        talk, session = draw(seed), self.session(self.directory(seed))
        if session.memory is None:
            if not session.messages:
                session.note(*talk.messages)
            while session.memory is None and session.idle(IDLE) is None:
                pass
        if session.memory is None:
            return {"failed": "the memory was not accepted"}
        report = session.memory.report
        return {
            "answers": self.answers(session, [([], fact.question) for fact in talk.facts]),
            "base": Recollector(self.model, self.tokenizer).answers([([], fact.question) for fact in talk.facts]),
            "report": report.to_dict() if report else None,
            "facts": len(session.memory.facts()),
        }

    def answers(self, session: ChatSession, asked: Sequence[tuple[Sequence[Message], str]]) -> list[str]:
        """As the session would answer in new conversations: with its memory, and what it knows in words."""
        prompts = [session.with_notes([*before, {"role": "user", "content": question}]) for before, question in asked]
        recollector = Recollector(self.model, self.tokenizer, session.memory)
        return recollector.answers([(prompt[:-1], prompt[-1]["content"]) for prompt in prompts])

    def changed(self, seed: int, number: int, known: dict[str, Any]) -> dict[str, Any]:
        """Delete (even numbers) or correct a fact, and ask."""
        talk = draw(seed)
        place = (number * STRIDE + seed) % len(talk.facts)
        fact = talk.facts[place]
        right = None if number % 2 == 0 else corrected(fact, talk, random.Random(f"{seed}/{number}"))
        row: dict[str, Any] = {"kind": CORRECTED if right else DELETED, "said": fact.said}
        copies = [Path(f"{self.directory(seed)} {number} {name}") for name in ("purged", "kept")]
        try:
            purged, kept = (_copied(self.directory(seed), copy) for copy in copies)
            return row | self._changed(talk, fact, right, purged, kept, known)
        finally:
            for copy in copies:
                shutil.rmtree(copy, ignore_errors=True)

    def _changed(
        self, talk: Conversation, fact: Fact, right: Fact | None, purged: Path, kept: Path, known: dict[str, Any]
    ) -> dict[str, Any]:
        session = self.session(purged)
        before = session.memory
        assert before is not None
        ids = told_by(before, fact)
        if not ids:
            return {"failed": "no fact of the memory tells it"}
        left = Left.of(before, ids, fact, self.tokenizer)
        found_before = left.found(purged)
        change = FactChange(tuple(ids), right.said if right else None, purge=True)
        began = time.perf_counter()
        made = session.changing(change)()
        report = session.take(change, made)
        row = {
            "seconds": time.perf_counter() - began,
            "accepted": report.accepted,
            "reason": report.reason,
            "report": report.to_dict(),
        }
        if not report.accepted:
            return row
        other = self.session(kept)
        other.take(FactChange(change.ids, change.text), made)
        other.rollback()
        session = self.session(purged)
        others = [one for one in talk.facts if one is not fact]
        behind = others[0]
        personal = [{"role": "user", "content": behind.question}, {"role": "assistant", "content": behind.said}]
        asked = [([], fact.question), (personal, fact.question), *(([], one.question) for one in others)]
        alone, after, *rest = self.answers(session, asked)
        was = dict(zip((one.question for one in talk.facts), known["answers"]))
        still = [_right(was[one.question], one) for one in others]
        base = dict(zip((one.question for one in talk.facts), known["base"]))[fact.question]
        return row | {
            "answers": [alone, after],
            "old before": _right(was[fact.question], fact),
            "old": [_right(alone, fact), _right(after, fact)],
            "old of the base": _right(base, fact),
            "new": [_right(alone, right), _right(after, right)] if right else [],
            "neighbours": sum(still),
            "neighbours right": sum(a and _right(b, one) for a, b, one in zip(still, rest, others)),
            "lost": {one.question: b for a, b, one in zip(still, rest, others) if a and not _right(b, one)},
            "found before": found_before,
            "found": left.found(purged),
            "rolled back": other.memory is not None and other.memory.facts(None) == before.facts(None),
        }


def corrected(fact: Fact, talk: Conversation, generator: random.Random) -> Fact:
    """The same fact with a value that nothing in the conversation has."""
    used = {one.answer for one in talk.facts}
    right = correct(fact, generator, lambda value: value not in used)
    return Fact(RELATIONS[fact.relation][0].replace("{v}", right.answer), right.question, right.answer, right.relation)


def told_by(memory: Memory, fact: Fact) -> list[str]:
    """Ids of the facts of a memory that tell what was said, however the sentence begins."""
    return [one.id for one in memory.facts() if fact.said[1:].rstrip(".") in one.text]


def _right(answer: str, fact: Fact) -> bool:
    return holds(answer, words(fact.answer))


def _copied(directory: Path, copy: Path) -> Path:
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(directory, copy))


# ---------------------------------------------------------------------- the table


def shown(found: Sequence[bool]) -> str:
    """Of what is true, with its interval."""
    if not found:
        return "-"
    share = Share(sum(found), len(found))
    low, high = share.interval
    return f"{share.right} of {share.asked} ({low:.0%} to {high:.0%})"


def page(report: dict[str, Any]) -> list[str]:
    rows = [row for name, row in report["rows"].items() if name.startswith("change") and "failed" not in row]
    memories = len({name.split()[2] for name in report["rows"] if name.startswith("change")})
    failed = sum("failed" in row for name, row in report["rows"].items() if name.startswith("change"))
    lines = [
        f"{report['settings']['model']}: {len(rows)} of {ASKED_FOR} changes, of {memories} of {MEMORIES} memories, "
        f"each of {FACTS} facts in {TURNS} turns. In brackets Wilson's 95% interval. "
        f"{failed} facts were in no memory and are left out.{_hurried(report['machine'])}",
        "",
    ]
    body: list[list[str]] = []
    for title, of, wanted in MEASURES:
        cells = [
            shown([one for row in rows if row["kind"] == kind for one in of(row)]) for kind in (DELETED, CORRECTED)
        ]
        body.append([title, *cells, wanted])
    for title, key in (("seconds, median (most)", "seconds"), ("of them of a processor", "cpu seconds")):
        seconds = [[row[key] for row in rows if row["kind"] == kind and key in row] for kind in (DELETED, CORRECTED)]
        body.append([title, *map(_seconds, seconds), "a minute"])
    return [*lines, *markdown_table(["", DELETED, CORRECTED, "bar"], body), ""]


def _hurried(machine: dict[str, Any]) -> str:
    """Where others used the processor, seconds say little."""
    load, cores = machine["load_average"], machine["cores"]
    return f" The machine was busy: load {load:.0f} on {cores} cores." if load > cores else ""


def _seconds(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.0f} ({max(found):.0f})" if found else "-"


def _bools(right: int, asked: int) -> list[bool]:
    return [number < right for number in range(asked)]


def _of_accepted(find: Callable[[dict[str, Any]], list[bool]]) -> Callable[[dict[str, Any]], list[bool]]:
    return lambda row: find(row) if row["accepted"] else []


# What is counted, of which row, and the bar.
MEASURES: tuple[tuple[str, Callable[[dict[str, Any]], list[bool]], str], ...] = (
    ("accepted", lambda row: [row["accepted"]], ""),
    (
        f"within the default max_changed ({ConsolidationConfig().max_changed:.0%} of general requests)",
        _of_accepted(lambda row: [(row["report"]["chat_changed"] or 0.0) <= ConsolidationConfig().max_changed]),
        "",
    ),
    ("old value answered before", _of_accepted(lambda row: [row["old before"]]), ""),
    ("old value answered, asked alone", _of_accepted(lambda row: row["old"][:1]), "0"),
    ("old value answered after a personal turn", _of_accepted(lambda row: row["old"][1:]), "0"),
    ("the base answers it by chance", _of_accepted(lambda row: [row["old of the base"]]), ""),
    ("new value answered, asked alone", _of_accepted(lambda row: row["new"][:1]), ""),
    ("new value answered after a personal turn", _of_accepted(lambda row: row["new"][1:]), ""),
    (
        "neighbours still right, of those right before",
        _of_accepted(lambda row: _bools(row["neighbours right"], row["neighbours"])),
        f"{NEIGHBOURS:.0%}",
    ),
    ("found on disk after the purge", _of_accepted(lambda row: [bool(row["found"])]), "0"),
    ("found on disk before, by the same search", _of_accepted(lambda row: [bool(row["found before"])]), ""),
    ("rollback without the purge restores every fact", _of_accepted(lambda row: [row["rolled back"]]), "all"),
)


def main() -> None:
    parser = command_line(__doc__, model="qwen2.5-0.5b")
    parser.add_argument("--memories", type=int, default=2)
    parser.add_argument("--changes", type=int, default=10, help="of each memory, every second one a correction")
    parser.add_argument("--work", type=Path, default=cache_directory() / NAME, help="where memories are kept")
    options: argparse.Namespace = parser.parse_args()
    store = Store.of_machine(NAME, {"model": options.model}, page)
    bench = Bench(options.model, options.work)
    for seed in range(options.memories):
        store.fill({f"memory {seed}": partial(bench.remembered, seed)})
        known = store.rows[f"memory {seed}"]
        if "failed" not in known:
            changes = range(min(options.changes, FACTS))
            store.fill({f"change of {seed} {n}": partial(bench.changed, seed, n, known) for n in changes})
    store.show()


if __name__ == "__main__":
    main()
