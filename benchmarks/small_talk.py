"""Ordinary small conversations: what is known of them afterwards, what is confused, invented, or should not be known?

python -m benchmarks.small_talk conversations.json
python -m benchmarks.small_talk conversations.json --model qwen2.5-0.5b --writer qwen2.5-1.5b
python -m benchmarks.small_talk conversations.json --writer http://127.0.0.1:8080/v1

The file is a list of conversations: "name", "date", "messages", "questions" (each with "question", the answers of which
"any" is right and those of which "none" may be given), "unknown" (questions that nothing was said about) and "never"
(words that must not be told). It is not part of the project, and neither are its answers: `results/` gets shares alone.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_retrofit.consolidation.facts.checks import folded
from ttt_retrofit.consolidation.facts.listing import facts_of
from ttt_retrofit.consolidation.facts.turns import Turn, turns_of
from ttt_retrofit.consolidation.facts.writers import EndpointWriter, FactWriter, ModelWriter
from ttt_retrofit.util.messages import Message

from .harness.loading import carrier, tokenizer_of
from .harness.options import command_line, stored_as
from .harness.prompts import Recollector, told
from .harness.store import Store
from .harness.tables import markdown_table

NAME = "small_talk"
ANSWER_TOKENS = 48
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
        "invented": sum(not DECLINES.search(a.lower()) for a in declined),
        "never": len(given) if talk.never else 0,
        "leaked": sum(leaked),
    }


def noted(lines: Sequence[str]) -> list[Message]:
    return told(NOTE.format(notes="\n".join(f"- {line}" for line in lines)))


def writer_of(name: str | None, model: str) -> FactWriter:
    """The model itself, another by its name, or a server by its address with the name of its model behind "#"."""
    if name is not None and name.startswith("http"):
        url, _, served = name.partition("#")
        return EndpointWriter(url, served or None)
    asked = Recollector(carrier(name or model, sliding_window=None), tokenizer_of(name or model))
    return ModelWriter(name or model, asked.writer, asked.formatter)


def rows(talks: Sequence[Talk], model: str, writer: str | None) -> dict[str, Callable[[], Any]]:
    recollector = Recollector(carrier(model), tokenizer_of(model))

    def answering(before: Callable[[Talk], list[Message]]) -> Callable[[], Any]:
        def row() -> dict[str, int]:
            total: dict[str, int] = {}
            for talk in talks:
                earlier = before(talk)
                found = judged(
                    talk, lambda qs, said=earlier: recollector.answers([(said, q) for q in qs], ANSWER_TOKENS)
                )
                total = {key: total.get(key, 0) + found[key] for key in found}
            return total

        return row

    def in_full(talk: Talk) -> list[Message]:
        return noted([f"{turn.said_by} ({turn.date}): {turn.text}" for turn in talk.turns])

    def by_facts(talk: Talk) -> list[Message]:
        return noted([f"{fact.said_at}: {fact.text}" for fact in facts_of(talk.turns, writing()).facts])

    made: list[FactWriter] = []

    def writing() -> FactWriter:
        if not made:
            made.append(writer_of(writer, model))
        return made[0]

    return {
        "no context": answering(lambda talk: []),
        "the conversation in the prompt": answering(in_full),
        "its facts in the prompt": answering(by_facts),
    }


def page(report: dict[str, Any]) -> list[str]:
    settings = report["settings"]
    header = ["row", "right", "forbidden", "invented", "leaked"]
    body = [
        [name, *(f"{row[key]} of {row[of]}" for key, of in
                 (("right", "questions"), ("forbidden", "questions"), ("invented", "unknown"), ("leaked", "never")))]
        for name, row in report["rows"].items()
    ]  # fmt: skip
    writer = settings["writer"] or "itself"
    return [f"{settings['model']}, facts written by {writer}; {settings['talks']} conversations.", "",
            *markdown_table(header, body), ""]  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, model="qwen2.5-1.5b")
    parser.add_argument("file", type=Path)
    parser.add_argument("--writer", help="of the facts: a model by its name, or the address of a server")
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
    store.fill(rows(talks, options.model, options.writer))
    store.show()


if __name__ == "__main__":
    main()
