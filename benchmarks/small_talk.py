"""Ordinary small conversations: what is known of them afterwards, what is confused, invented, or should not be known?

python -m benchmarks.small_talk conversations.json
python -m benchmarks.small_talk conversations.json --model qwen2.5-0.5b --writer qwen2.5-1.5b
python -m benchmarks.small_talk conversations.json --writer http://127.0.0.1:8080/v1

Each conversation is consolidated into a memory of its own, and asked about in new chats: by it alone, and with the
facts that it did not learn in words before the question, as a `ChatSession` does it.

The file is a list of conversations: "name", "date", "messages", "questions" (each with "question", the answers of which
"any" is right and those of which "none" may be given), "unknown" (questions that nothing was said about) and "never"
(words that must not be told). It is not part of the project, and neither are its answers: `results/` gets shares alone.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from ttt_retrofit import Memory
from ttt_retrofit.consolidation.facts.checks import folded
from ttt_retrofit.consolidation.facts.listing import facts_of
from ttt_retrofit.consolidation.facts.turns import Turn, turns_of
from ttt_retrofit.consolidation.facts.writers import FactWriter, ModelWriter
from ttt_retrofit.util.messages import Message

from .harness.loading import carrier, tokenizer_of
from .harness.options import command_line, stored_as
from .harness.prompts import Recollector, told
from .harness.store import Store
from .harness.tables import markdown_table
from .harness.writers import writer_of

NAME = "small_talk"
ANSWER_TOKENS = 48
NONE, FULL, FACTS, MEMORY = "no context", "the conversation in the prompt", "its facts in the prompt", "memory"
SHARES = (("right", "questions"), ("forbidden", "questions"), ("invented", "unknown"), ("leaked", "never"))
COUNTED = sorted({key for pair in SHARES for key in pair})
NOTE = "Notes of our earlier conversations:\n{notes}"
# How an answer says that it does not know, in the languages of the questions.
DECLINES = re.compile(
    r"don.t (have|know)|do not (have|know)|not (mention|provid|specif|sure|know|told|stated|given|say)|"
    r"no (info|mention)|unknown|unable|cannot|can.t|sorry|"
    r"wei(ß|ss) ich nicht|keine (info|angab)|nicht (bekannt|erwähnt|angegeben)|leider|"
    r"no (sé|se|tengo|hay|se menciona)|lo siento|désolé|je ne sais|不知道|没有|无法|抱歉|未提"
)  # fmt: skip
Answers = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True)
class Talk:
    """One conversation of the file."""

    name: str
    date: str
    messages: list[dict[str, Any]]
    questions: list[dict[str, Any]]
    unknown: list[str]
    never: list[str]

    @classmethod
    def read(cls, path: Path) -> list[Talk]:
        return [
            cls(t["name"], t["date"][:10], t["messages"], t["questions"], t.get("unknown", []), t.get("never", []))
            for t in json.loads(path.read_text())
        ]

    @property
    def turns(self) -> list[Turn]:
        return turns_of(self.messages, self.date)


def has(answer: str, words: Sequence[str]) -> bool:
    """Whether an answer has one of the words: whole ones, where words are written apart."""
    said = folded(answer)
    return any(re.search(rf"(?<![a-z0-9]){re.escape(folded(word))}", said) for word in words)


def declines(answer: str) -> bool:
    return not answer.strip() or DECLINES.search(answer.lower()) is not None


def judged(talk: Talk, answer: Answers) -> dict[str, int]:
    """How many answers are right, forbidden, invented and leaking, and out of how many."""
    asked = [question["question"] for question in talk.questions]
    given = answer([*asked, *talk.unknown])
    known, declined = given[: len(asked)], given[len(asked) :]
    forbidden = [has(a, q["none"]) for a, q in zip(known, talk.questions)]
    right = [has(a, q["any"]) and not bad for a, q, bad in zip(known, talk.questions, forbidden)]
    leaked = [has(a, talk.never) for a in given]
    return {
        "questions": len(asked),
        "right": sum(right),
        "forbidden": sum(forbidden),
        "unknown": len(declined),
        "invented": sum(not declines(a) for a in declined),
        "never": len(given) if talk.never else 0,
        "leaked": sum(leaked),
    }


def noted(lines: Sequence[str]) -> list[Message]:
    return told(NOTE.format(notes="\n".join(f"- {line}" for line in lines)))


@dataclass
class Rows:
    """What is measured, conversation by conversation: a run that was cut off goes on with the next one."""

    talks: Sequence[Talk]
    model: str
    writer: str | None
    memories: Path | None  # where they are kept

    def of_all(self) -> dict[str, Callable[[], Any]]:
        """By the name of the row and the number of the conversation."""
        measures = {
            NONE: lambda talk: self._answered(talk, []),
            FULL: lambda talk: self._answered(
                talk, noted([f"{turn.said_by} ({turn.date}): {turn.text}" for turn in talk.turns])
            ),
            FACTS: lambda talk: self._answered(
                talk, noted([f"{f.said_at}: {f.text}" for f in facts_of(talk.turns, self._writes).facts])
            ),
            MEMORY: self._remembered,
        }
        return {
            f"{row} {number}": partial(measure, talk)
            for row, measure in measures.items()
            for number, talk in enumerate(self.talks)
        }

    @cached_property
    def _base(self) -> Recollector:
        return Recollector(carrier(self.model), tokenizer_of(self.model))

    @cached_property
    def _other(self) -> tuple[Any, Any] | str | None:
        """Who writes in place of the model, as `consolidate` takes it."""
        if self.writer is None or self.writer.startswith("http"):
            return self.writer
        return carrier(self.writer), tokenizer_of(self.writer)

    @cached_property
    def _writes(self) -> FactWriter:
        if isinstance(self._other, str):
            return writer_of(self._other)
        asked = self._base if self._other is None else Recollector(*self._other)
        return ModelWriter(self.writer or self.model, asked.writer, asked.formatter)

    def _answered(self, talk: Talk, before: Sequence[Message], memory: Memory | None = None) -> dict[str, Any]:
        asked = self._base if memory is None else Recollector(carrier(self.model), self._base.writer.tokenizer, memory)
        return judged(talk, lambda questions: asked.answers([(before, q) for q in questions], ANSWER_TOKENS))

    def _remembered(self, talk: Talk) -> dict[str, Any]:
        began = time.perf_counter()
        model = carrier(self.model)
        memory = model.consolidate(
            talk.messages, tokenizer=self._base.writer.tokenizer, writer=self._other, date=talk.date, load=False,
            progress=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if self.memories is not None:
            memory.save(self.memories / str(self.talks.index(talk)))
        report = memory.report
        assert report is not None
        known = memory if report.accepted else None
        in_words = memory.with_notes([]) if report.accepted else []
        return {
            "alone": self._answered(talk, [], known),
            "with notes": self._answered(talk, in_words, known),
            "report": {
                "accepted": report.accepted,
                "recall": report.recall,
                "questions": report.questions,
                "facts": report.facts,
                "unlearned": len(report.unlearned),
                "dropped": report.dropped,
                "superseded": report.superseded,
            },
            "seconds": {**report.seconds, "in all": seconds},
        }


def summed(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Counts of all conversations."""
    return {key: sum(one[key] for one in found) for key in COUNTED}


def page(report: dict[str, Any]) -> list[str]:
    settings, rows = report["settings"], report["rows"]
    by_row: dict[str, list[Any]] = {}
    for name, row in rows.items():
        if "failed" not in row:
            by_row.setdefault(name.rpartition(" ")[0], []).append(row)
    memories = by_row.pop(MEMORY, [])
    counted = {name: summed(found) for name, found in by_row.items()}
    if memories:
        counted["the memory alone"] = summed([row["alone"] for row in memories])
        counted["the memory, and in words what it did not learn"] = summed([row["with notes"] for row in memories])
    header = ["row", *(name for name, _ in SHARES)]
    body = [[name, *(f"{row[key]} of {row[of]}" for key, of in SHARES)] for name, row in counted.items()]
    lines = [
        f"{settings['model']}, facts written by {settings['writer'] or 'itself'}; {settings['talks']} conversations."
    ]
    return [*lines, "", *markdown_table(header, body), "", *_of_memories(memories)]


def _of_memories(memories: Sequence[Mapping[str, Any]]) -> list[str]:
    if not memories:
        return []
    reports = [row["report"] for row in memories]
    asked = sum(report["questions"] for report in reports)
    right = sum((report["recall"] or 0.0) * report["questions"] for report in reports)
    seconds = sorted(row["seconds"]["in all"] for row in memories)
    body = [
        ["memories that were accepted", f"{sum(report['accepted'] for report in reports)} of {len(reports)}"],
        ["facts", sum(report["facts"] for report in reports)],
        ["facts that were not learned", sum(report["unlearned"] for report in reports)],
        ["sentences that failed a check", sum(report["dropped"] for report in reports)],
        ["facts that no longer held", sum(report["superseded"] for report in reports)],
        ["recall by the reports' own questions", f"{right:.0f} of {asked}"],
        ["seconds of a consolidation, median", f"{seconds[len(seconds) // 2]:.0f}"],
    ]
    return [*markdown_table(["the memories", ""], body), ""]


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-1.5b")
    parser.add_argument("file", type=Path)
    parser.add_argument("--writer", help="of the facts: a model by its name, or the address of a server")
    parser.add_argument("--memories", type=Path, help="where the memories are kept")
    options: argparse.Namespace = parser.parse_args(arguments)
    talks = Talk.read(options.file)
    server = options.writer is not None and options.writer.startswith("http")
    settings = {
        "model": options.model,
        "writer": "a server" if server else options.writer,
        "talks": len(talks),
    }
    store = Store.of_machine(
        stored_as(NAME, options.model, settings["writer"] or "itself", quick=False), settings, page
    )
    store.fill(Rows(talks, options.model, options.writer, options.memories).of_all())
    store.show()


if __name__ == "__main__":
    main()
