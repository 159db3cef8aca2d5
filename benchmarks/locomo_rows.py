"""The rows of `benchmarks.locomo`: what each has of the sessions when it is asked, as words or as weights.

All are asked with the same instruction in the system prompt. Facts and memories are made session after session, as an
agent lives them, and kept in the bench's directory, so that rows share them and a run that was cut off goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ttt_retrofit import Memory
from ttt_retrofit.consolidation.facts.extraction import prompt
from ttt_retrofit.consolidation.facts.listing import facts_of
from ttt_retrofit.consolidation.facts.turns import turns_of
from ttt_retrofit.consolidation.facts.writers import FactWriter, ModelWriter
from ttt_retrofit.memory.facts import Fact

from .baselines import LORA_STEPS, text_memory
from .harness.asker import Asker
from .harness.loading import base_model, tokenizer_of
from .harness.prompts import Message, Recollector, told
from .harness.retrieval import BM25
from .harness.writers import writer_of
from .locomo_talks import Session, Talk
from .small_talk import NOTE
from .turns_rows import LORA_PART

INSTRUCTION = "Today is {day}. Answer in a few words. If it was never mentioned, say so."
ANSWER_TOKENS = 48
BEST = 10  # lines that BM25 finds
ROOM = 256  # tokens that a full prompt leaves for the instruction, the question and the answer
Before = Callable[[str], Sequence[Message]]  # the messages before a question


class Answered(NamedTuple):
    texts: list[str]  # one for each question
    tokens: float  # of a prompt, mean
    asking: float  # seconds, of all questions together
    making: float = 0.0  # seconds, of what was made of the sessions before
    remark: str = ""


@dataclass
class Bench:
    """A model, who writes the facts, and where what was made is kept."""

    asker: Asker
    writer_name: str | None  # a model's or a server's address; None for the model itself
    work: Path
    budget: float | None = None  # seconds of one consolidation

    @cached_property
    def writer(self) -> FactWriter:
        if self.writer_name is not None:
            return writer_of(self.writer_name)
        own = Recollector(self.asker.model, self.asker.tokenizer)
        return ModelWriter(self.asker.name, own.writer, own.formatter)

    @cached_property
    def memories(self) -> Path:
        """Where memories are kept: those of another recipe are others."""
        recipe = hashlib.sha256(f"{self.writer_name} {self.budget}".encode()).hexdigest()[:8]
        return self.work / "memories" / f"{self.asker.name}-{recipe}"

    @cached_property
    def writing(self) -> dict[str, Any]:
        """Who writes, as `consolidate` is told: nobody else, a server, or a model with its tokenizer."""
        name = self.writer_name
        if name is None:
            return {}
        return {"writer": name if name.startswith("http") else (base_model(name), tokenizer_of(name))}

    def ask(self, talk: Talk, before: Before = lambda question: [], memory: Memory | None = None) -> Answered:
        system = {"role": "system", "content": INSTRUCTION.format(day=talk.sessions[-1].day)}
        asked = [([system, *before(question)], question) for question in talk.questions]
        return Answered(*self.asker.answers(asked, ANSWER_TOKENS, memory))

    def latest(self, lines: Sequence[str]) -> list[str]:
        """The last lines that fit into the model's window."""
        left, fitting = self.asker.window - ROOM - ANSWER_TOKENS, 0
        for line in reversed(lines):
            left -= self.asker.size(f"- {line}\n")
            if left < 0:
                break
            fitting += 1
        return list(lines[len(lines) - fitting :])

    def facts(self, talk: Talk) -> tuple[list[str], float]:
        """The facts of all sessions with their days, and the seconds that it took to write them."""
        kept = [self._facts(session) for session in talk.sessions]
        lines = [
            f"{session.day}: {fact.text}"
            for session, one in zip(talk.sessions, kept)
            for fact in map(Fact.from_dict, one["facts"])
            if fact.status == "current"
        ]
        return lines, sum(one["seconds"] for one in kept)

    def _facts(self, session: Session) -> dict[str, Any]:
        """Of one session, written once by each writer for each wording of what it is asked."""
        turns = turns_of(session.messages)
        said = [[turn.said_by, turn.text, turn.date.isoformat()] for turn in turns]
        asked = json.dumps([self.writer.name, prompt([]), said])
        file = self.work / "facts" / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
        if not file.exists():
            began = time.perf_counter()
            listed = facts_of(turns, self.writer)
            made = {
                "facts": [fact.to_dict() for fact in listed.facts], "dropped": listed.dropped,
                "seconds": time.perf_counter() - began,
            }  # fmt: skip
            write(file, made)
        return json.loads(file.read_text())

    def memory(self, talk: Talk) -> tuple[Memory, float, str]:
        """After the last session: the memory, the seconds of all consolidations, and what is to be said of it."""
        memory: Memory | None = None
        seconds, refused = 0.0, []
        for number, session in enumerate(talk.sessions, start=1):
            directory = self.memories / talk.name / str(number)
            if not (directory / "memory.json").exists():
                made = self.consolidate(session, memory if memory is not None and memory.entries else None)
                assert made.report is not None
                if not made.report.accepted:  # an agent goes on with what it had
                    made = dataclasses.replace(made, entries=() if memory is None else memory.entries)
                made.save(directory)
            memory = Memory.load(directory)
            assert memory.report is not None
            seconds += sum(memory.report.seconds.values())
            refused += [] if memory.report.accepted else [str(number)]
        assert memory is not None
        remark = f"{len(memory.facts())} facts, {len(memory.unlearned())} of them not learned"
        return memory, seconds, remark + (f"; sessions not accepted: {', '.join(refused)}" if refused else "")

    def consolidate(self, session: Session, earlier: Memory | None) -> Memory:
        """One session, with its date and, in its messages, the names of who speaks."""
        return self.asker.model.consolidate(
            list(session.messages), tokenizer=self.asker.tokenizer, earlier=earlier, load=False, progress=True,
            budget=self.budget, date=session.date, work_dir=self.work / "consolidations", **self.writing,
        )  # fmt: skip


def write(file: Path, values: Any) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_text(json.dumps(values, indent=1, ensure_ascii=False))
    unfinished.replace(file)


def noted(lines: Sequence[str]) -> list[Message]:
    """What was said, in the words of `small_talk`; no message for nothing."""
    return told(NOTE.format(notes="\n".join(f"- {line}" for line in lines))) if lines else []


def nothing(bench: Bench, talk: Talk) -> Answered:
    return bench.ask(talk)


def full_context(bench: Bench, talk: Talk) -> Answered:
    return _latest(bench, talk, talk.lines, "turns")


def retrieval(bench: Bench, talk: Talk) -> Answered:
    return _best(bench, talk, talk.lines)


def all_facts(bench: Bench, talk: Talk) -> Answered:
    lines, seconds = bench.facts(talk)
    return _latest(bench, talk, lines, "facts")._replace(making=seconds)


def best_facts(bench: Bench, talk: Talk) -> Answered:
    lines, seconds = bench.facts(talk)
    return _best(bench, talk, lines)._replace(making=seconds)


def _latest(bench: Bench, talk: Talk, lines: Sequence[str], what: str) -> Answered:
    kept = bench.latest(lines)
    before = noted(kept)
    remark = "" if len(kept) == len(lines) else f"the latest {len(kept)} of {len(lines)} {what} fit"
    return bench.ask(talk, lambda question: before)._replace(remark=remark)


def _best(bench: Bench, talk: Talk, lines: Sequence[str]) -> Answered:
    """The lines that BM25 finds for each question, in the order in which they were said."""
    if not lines:
        return bench.ask(talk)
    index = BM25(lines)

    def before(question: str) -> list[Message]:
        found = index.ranked(question, min(BEST, len(lines)))
        return noted([lines[number] for number in sorted(number for number, score in found if score > 0)])

    return bench.ask(talk, before)


def next_token_lora(bench: Bench, talk: Talk) -> Answered:
    """The parameters of a memory, trained on the words as they were said and always active."""
    began = time.perf_counter()
    made = text_memory(bench.asker.model, bench.asker.ids("\n".join(talk.lines)), LORA_STEPS, part=LORA_PART)
    seconds = time.perf_counter() - began
    return bench.ask(talk, memory=made)._replace(making=seconds)


def remembering(with_words: bool) -> Callable[[Bench, Talk], Answered]:
    """The memory alone, or with what its weights were not verified to hold as words before the question."""

    def row(bench: Bench, talk: Talk) -> Answered:
        memory, seconds, remark = bench.memory(talk)
        before = memory.with_notes([]) if with_words else []
        given = bench.ask(talk, lambda question: before, memory if memory.entries else None)
        return given._replace(making=seconds, remark=remark)

    return row


ROWS: dict[str, Callable[[Bench, Talk], Answered]] = {
    "no context": nothing,
    "full context": full_context,
    "BM25": retrieval,
    "all facts": all_facts,
    "best facts": best_facts,
    "next-token LoRA": next_token_lora,
    "consolidated memory": remembering(with_words=False),
    "memory + waiting facts": remembering(with_words=True),
}
