"""The rows of `benchmarks.memory_over_turns`: each keeps something of a conversation and answers from that alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from ttt_retrofit import ConsolidationConfig, Memory, consolidation
from ttt_retrofit.consolidation.note_selection import scored_notes, select_notes, within_budget
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.consolidation.study.statements import of_conversation
from ttt_retrofit.memory.notes import with_lines

from .baselines import LORA_STEPS, text_memory
from .harness import rows
from .harness.english import holds, stem, words
from .harness.loading import carrier
from .harness.prompts import ANSWER_TOKENS, Message, Recollector, is_invented, templated, told
from .harness.recollect import DRIFTS, drift_ids, in_fresh_process, loss
from .harness.retrieval import BM25
from .harness.rows import evicting, evicting_asked, full, repeating, streaming
from .sessions import Asked, Sessions
from .storage import cache_directory
from .systems.answer import greedy
from .systems.asked import Looked, look
from .systems.evict import Context, Kept, Score, keep_top, whole
from .systems.h2o import h2o
from .systems.snapkv import snapkv

ARTICLES = ("a", "an", "the", "and")  # which LoCoMo's score leaves out
SUMMARY = "Write down every fact of our conversation, one sentence each, with all names, numbers and dates."
NOTES = 208  # tokens of notes beside a consolidated memory, whatever the state: half the default's
EVERY_NOTE = 10**9  # what the memory on disk keeps; it is cut to so many tokens when it is asked
LORA_PART = 2048  # tokens of a longer conversation in each step: whole, LoCoMo's need more memory than most have
# How a model says that it was not told, besides `prompts.ABSTAINS`, in the words of prompts that hold the text.
NOT_TOLD = re.compile(
    r"(?:n't|n’t|\bnot|\bnever)\b(?:(?!\bbut\b)[^.,;!?]){0,30}?"
    r"\b(?:mention|told|tell|said|say|share|specif|provid|stated|given|know|recall|remember|available|determine)"
    r"|\bno (?:\w+ )?(?:information|mention|record|detail|indication|idea)|\b(?:unknown|unspecified)\b",
    re.IGNORECASE,
)


class Answered(NamedTuple):
    answers: list[str]  # one for each question
    nbytes: int  # that they were given from
    drift: Mapping[str, float] = MappingProxyType({})  # of weights of its own: change of the loss on unrelated text
    changed: float | None = None  # share of general questions that they make it answer otherwise
    remark: str = ""


class Bench(rows.Bench):
    """One conversation after another."""

    made = ("context", "repeated", "looked", "consolidated")

    def __init__(self, name: str, state: int, sinks: int) -> None:
        super().__init__(name, state, sinks, dtype=torch.bfloat16)
        text = self.model.config
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.token_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * size * 2  # of keys and values

    def take(self, talk: Sessions) -> None:
        """The next conversation; what was made of the last one goes."""
        self.talk = talk
        self.messages = list(talk.messages)
        self.questions = [asked.question for asked in talk.asked]
        self.ids = torch.tensor(templated(self.tokenizer, self.messages, False))
        self.forget()

    @cached_property
    def converted(self) -> Any:
        """A second model, which carries memories and sees all of its prompt."""
        return carrier(self.name, sliding_window=None)

    @property
    def scores(self) -> dict[str, Score]:
        return {"snapkv": snapkv, "h2o": h2o}

    @property
    def ending(self) -> list[int]:
        asking = templated(self.tokenizer, [{"role": "user", "content": "?"}], True)
        return asking[asking.index(self.tokenizer("?", add_special_tokens=False).input_ids[0]) + 1 :]

    @cached_property
    def looked(self) -> list[Looked]:
        """Every question, read behind the whole conversation."""
        return [look(self.model, self.context, asking, [*self.scores]) for asking in self.asking()]

    @cached_property
    def consolidated(self) -> Memory:
        """A memory of the conversation with every note, kept on disk: several rows ask it, in processes of their own.

        Another state cuts its notes only, so it is not made again for one; for other code that makes it, it is.
        """
        code = [path.read_text() for path in sorted(Path(consolidation.__file__).parent.iterdir()) if path.is_file()]
        recipe = dataclasses.asdict(ConsolidationConfig())
        text = json.dumps([self.name, self.messages, recipe, code], default=str)
        kept = cache_directory() / "memory_over_turns" / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not (kept / "memory.json").exists():
            self.converted.reset_memory()
            made = self.converted.consolidate(
                self.messages, tokenizer=self.tokenizer, notepad=EVERY_NOTE, load=False, progress=True,
                work_dir=kept.parent / "work", min_recall=0.0,
            )  # fmt: skip
            if not made.entries:
                raise RuntimeError(f"nothing was remembered: {made.report.reason}")
            made.save(kept)
        return Memory.load(kept)

    def prompted(self, before: Callable[[str], Sequence[Message]]) -> list[str]:
        """Answers with those messages, and nothing else, before each question."""
        return Recollector(self.converted, self.tokenizer).answers([(before(q), q) for q in self.questions])

    def answer(self, kept: Kept) -> Answered:
        """Each question behind a copy of what was kept."""
        return Answered([self._behind(kept, asking) for asking in self.asking()], kept.nbytes)

    def answer_asked(self, score: str, recent: int) -> Answered:
        """Each question behind the keys that it looks at itself, out of all."""
        answers, nbytes = [], 0
        for looked in self.looked:
            kept = keep_top(self.context, looked.scores[score], self.state, recent=recent)
            nbytes = kept.nbytes
            answers.append(self._answer(looked.behind(kept), []))
        return Answered(answers, nbytes)

    def asking(self) -> list[list[int]]:
        """The tokens of each question, as they follow the conversation."""
        asked = [[*self.messages, {"role": "user", "content": question}] for question in self.questions]
        found = [templated(self.tokenizer, messages, True) for messages in asked]
        assert all(ids[: len(self.ids)] == self.ids.tolist() for ids in found), "the template changes earlier turns"
        return [ids[len(self.ids) :] for ids in found]

    def _behind(self, kept: Kept, asking: list[int]) -> str:
        copy = dataclasses.replace(kept, cache=whole(Context(self.ids, kept.cache, {})).cache)
        return self._answer(copy, asking)

    def _answer(self, kept: Kept, asking: list[int]) -> str:
        answer = greedy(self.model, kept, asking, ANSWER_TOKENS, self.ends)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))

    def last_messages(self, budget: int) -> list[Message]:
        """The last exchanges that fit into so many tokens."""
        first = len(self.messages)
        while first >= 2 and len(templated(self.tokenizer, self.messages[first - 2 :], False)) <= budget:
            first -= 2
        return self.messages[first:]


def nothing(bench: Bench) -> Answered:
    return Answered(bench.prompted(lambda question: []), 0)


def noting(bench: Bench) -> Answered:
    """Rare sentences of what was said before the last messages, and those, half of the state each."""
    half = bench.state // 2
    last = bench.last_messages(bench.state - half)
    earlier = bench.messages[: len(bench.messages) - len(last)]
    statements = of_conversation(parse_context(earlier, bench.tokenizer, 512).turns, None) if earlier else ()
    notes = scored_notes((statement.text for statement in statements), bench.tokenizer)
    before = with_lines(last, [notes[n].text for n in select_notes(notes, half)])
    return Answered(bench.prompted(lambda question: before), bench.state * bench.token_bytes)


def retrieval(bench: Bench) -> Answered:
    """BM25 over exchanges with their dates, as many as the state holds tokens; all text is kept.

    So LongMemEval and LoCoMo retrieve: a reply alone seldom has a word of what it replies to, and few
    messages say on which day they were written.
    """
    exchanges = bench.talk.exchanges
    said = ["\n".join(message["content"] for message in exchange) for exchange in exchanges]
    sizes = [len(bench.tokenizer(text).input_ids) for text in said]
    index = BM25(said)

    def before(question: str) -> list[Message]:
        left, found = bench.state, []
        for number, score in index.ranked(question):
            if score > 0 and sizes[number] <= left:
                found.append(number)
                left -= sizes[number]
        return [message for number in sorted(found) for message in exchanges[number]]

    text = "\n".join(message["content"] for message in bench.messages)
    return Answered(bench.prompted(before), len(text.encode()))


def summary(bench: Bench) -> Answered:
    """What the model writes down about the conversation, in as many tokens as the state holds."""
    recollector = Recollector(bench.converted, bench.tokenizer)
    written_down = recollector.answers([(bench.messages, SUMMARY)], longest=bench.state)[0]
    return Answered(bench.prompted(lambda question: told(written_down)), len(written_down.encode()))


def remembering(with_notes: bool) -> Callable[[Bench], Answered]:
    def row(bench: Bench) -> Answered:
        memory = bench.consolidated
        if with_notes:
            entries = within_budget(memory.entries, NOTES)
        else:
            entries = tuple(dataclasses.replace(entry, notes=()) for entry in memory.entries)
        given = in_process_of_its_own(bench, dataclasses.replace(memory, entries=entries))
        report = memory.report
        return given if report is None or report.accepted else given._replace(remark=f"not accepted: {report.reason}")

    return row


def cartridge(bench: Bench) -> Answered:
    """PEFT's trained prefix, as many tokens as the state, on the lessons of the memory and for as many steps."""
    from .cartridge import train  # no other row needs PEFT

    memory = bench.consolidated
    lessons = [lesson for entry in memory.entries for lesson in entry.lessons if not lesson.held_out]
    assert memory.report is not None
    made, _ = train(bench.converted, bench.tokenizer, bench.messages, lessons, bench.state, memory.report.steps)
    drift = {}
    for key in DRIFTS:
        ids = drift_ids(bench.tokenizer, key)
        drift[key] = made.loss(ids) / loss(bench.converted, ids, None) - 1
    return Answered(made.answers(bench.questions), made.nbytes, drift)


def next_token_lora(bench: Bench) -> Answered:
    return in_process_of_its_own(bench, text_memory(bench.converted, bench.ids, LORA_STEPS, part=LORA_PART))


def in_process_of_its_own(bench: Bench, memory: Memory) -> Answered:
    with tempfile.TemporaryDirectory() as directory:
        found = in_fresh_process(bench.name, str(memory.save(Path(directory))), bench.questions, elsewhere=True)
    nbytes = memory.nbytes + sum(note.tokens for note in memory.notes) * bench.token_bytes
    return Answered(found["answers"], nbytes, {name: found[name] for name in DRIFTS}, found["changed"])


ROWS: dict[str, Callable[[Bench], Answered]] = {
    "no context": nothing,
    "full context": full,
    "StreamingLLM": streaming(sinks=True, anchored=True),
    "SnapKV": evicting("snapkv"),
    "H2O": evicting("h2o", recent=0.5),
    "KVzip": repeating,
    "SnapKV, question known": evicting_asked("snapkv"),
    "H2O, question known": evicting_asked("h2o", recent=0.5),
    "notepad + last messages": noting,
    "BM25": retrieval,
    "summary": summary,
    "next-token LoRA": next_token_lora,
    "PEFT Cartridge": cartridge,
    "consolidated memory": remembering(with_notes=False),
    "consolidated memory + notepad": remembering(with_notes=True),
}
# Many minutes a conversation.
SLOW = ("next-token LoRA", "PEFT Cartridge", "consolidated memory", "consolidated memory + notepad")


def scored(talk: Sessions, answers: Sequence[str]) -> list[dict[str, Any]]:
    """What each answer is worth: right, stale, mixed up with another fact of the conversation, or invented."""
    known = {answer for asked in talk.asked for answer in (*asked.answers, asked.stale) if answer}
    return [_scored(asked, answer, known, talk.sessions) for asked, answer in zip(talk.asked, answers, strict=True)]


def _scored(asked: Asked, answer: str, known: set[str], sessions: int) -> dict[str, Any]:
    right = any(holds(answer, _wanted(one)) for one in asked.answers) if asked.answers else declines(answer)
    stale = asked.stale is not None and holds(answer, words(asked.stale)) and not right
    others = known - {*asked.answers, asked.stale}
    mixed = not right and not stale and any(
        holds(answer, words(other)) for other in others if not holds(asked.question, words(other))
    )  # fmt: skip
    score = f1_of_parts if asked.kind == "multi-hop" else f1
    return {
        "kind": asked.kind, "lag": sessions - 1 - asked.session if asked.session >= 0 else None, "right": right,
        "stale": stale, "mixed": mixed, "f1": max((score(answer, one) for one in asked.answers), default=float(right)),
        "answer": answer,
    }  # fmt: skip


def _wanted(answer: str) -> list[str]:
    """The words that a right answer holds: none may be missing but the articles."""
    found = words(answer)
    return [word for word in found if word not in ARTICLES] or found


def declines(answer: str) -> bool:
    """Whether an answer says that it is not known; to say nothing at all is none."""
    return bool(answer.strip()) and (not is_invented(answer) or NOT_TOLD.search(answer) is not None)


def f1(answer: str, wanted: str) -> float:
    """LoCoMo's score of an answer: the harmonic mean of precision and recall over stems, articles left out."""
    given, right = (Counter(stem(word) for word in words(text) if word not in ARTICLES) for text in (answer, wanted))
    common = sum((given & right).values())
    return 2 * common / (given.total() + right.total()) if common else 0.0


def f1_of_parts(answer: str, wanted: str) -> float:
    """LoCoMo's score where several things are asked for: of each, between commas, the best that any part gets."""
    return fmean(max(f1(part, one) for part in answer.split(",")) for one in wanted.split(","))
