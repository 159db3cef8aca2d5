"""The rows of `benchmarks.memory_over_turns`: each keeps something of a conversation and answers from that alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import bm25s
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import ConsolidationConfig, Memory, TTTConfig, wrap
from ttt_retrofit.consolidation.notepad import best, written
from ttt_retrofit.consolidation.pieces import understand
from ttt_retrofit.consolidation.words import holds, stem, words
from ttt_retrofit.memory.notes import as_turn

from .consolidation import LORA_STEPS, SUMMARY_TOKENS, in_fresh_process
from .conversations import Message
from .models import model_directory
from .recollect import ANSWER_TOKENS, DRIFTS, Recollector, is_invented
from .sessions import Asked, Sessions
from .storage import cache_directory
from .systems.answer import greedy
from .systems.asked import asked_score
from .systems.evict import Context, Kept, keep_top, read, whole
from .systems.h2o import h2o
from .systems.kvzip import kvzip, kvzip_scores
from .systems.snapkv import snapkv
from .systems.streaming_llm import streaming_llm

THANKS: Message = {"role": "assistant", "content": "Thank you for telling me."}
ARTICLES = ("a", "an", "the", "and")  # which LoCoMo's score leaves out
SUMMARY = "Write down every fact I told you about myself, one sentence each, with all names and numbers."


class Answered(NamedTuple):
    answers: list[str]  # one for each question
    nbytes: int  # that they were given from
    drift: Mapping[str, float] = MappingProxyType(
        {}
    )  # of what has weights of its own: change of the loss on unrelated text


class Bench:
    """A model and one conversation after another; what several rows need of it is made once."""

    def __init__(self, name: str, state: int, sinks: int) -> None:
        self.name, self.state, self.sinks = name, state, sinks
        self.directory = model_directory(name)
        self.tokenizer = AutoTokenizer.from_pretrained(self.directory)
        self.model: Any = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.bfloat16).eval()
        configured = self.model.generation_config.eos_token_id
        self.ends = {configured} if isinstance(configured, int) else set(configured)
        text = self.model.config
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.token_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * size * 2  # of keys and values

    def take(self, talk: Sessions) -> None:
        """The next conversation; what was made of the last one goes."""
        self.talk = talk
        self.messages = list(talk.messages)
        self.questions = [asked.question for asked in talk.asked]
        self.ids = torch.tensor(self._templated(self.messages, False))
        for made in ("context", "repeated", "consolidated"):
            self.__dict__.pop(made, None)

    @cached_property
    def converted(self) -> Any:
        """A second model, which carries memories and sees all of its prompt."""
        base = AutoModelForCausalLM.from_pretrained(self.directory, dtype=torch.bfloat16).eval()
        return wrap(base, TTTConfig(learn_from="none", sliding_window=None))

    @cached_property
    def context(self) -> Context:
        return read(self.model, self.ids, {"snapkv": snapkv, "h2o": h2o})

    @cached_property
    def repeated(self) -> Tensor:
        """(L, G, N) scores of KVzip."""
        asking = self._templated([{"role": "user", "content": "?"}], True)
        ending = asking[asking.index(self.tokenizer("?", add_special_tokens=False).input_ids[0]) + 1 :]
        return kvzip_scores(self.model, self.tokenizer, self.context, ending)

    @cached_property
    def consolidated(self) -> Memory:
        """A memory of the conversation with a notepad, kept on disk: two rows ask it, in processes of their own."""
        recipe = dataclasses.asdict(ConsolidationConfig())
        text = json.dumps([self.name, self.notes_budget, self.messages, recipe], default=str)
        kept = cache_directory() / "memory_over_turns" / hashlib.sha256(text.encode()).hexdigest()[:16]
        if not (kept / "memory.json").exists():
            self.converted.reset_memory()
            made = self.converted.consolidate(
                self.messages, tokenizer=self.tokenizer, notepad=self.notes_budget, load=False, progress=True,
                work_dir=kept.parent / "work", min_recall=0.0,
            )  # fmt: skip
            made.save(kept)
        return Memory.load(kept)

    @property
    def notes_budget(self) -> int:
        return self.state // 2

    def prompted(self, before: Callable[[str], Sequence[Message]]) -> list[str]:
        """Answers with those messages, and nothing else, before each question."""
        return Recollector(self.converted, self.tokenizer).answers([(before(q), q) for q in self.questions])

    def from_keys(self, kept: Kept) -> Answered:
        """Each question behind a copy of what was kept."""
        return Answered([self._behind(kept, asking) for asking in self.asking()], kept.nbytes)

    def from_chosen_keys(self, score: str, recent: int) -> Answered:
        """Each question behind the keys that the question itself looks at, out of all."""
        answers, nbytes = [], 0
        for asking in self.asking():
            looking = whole(self.context)
            scores: list[Tensor] = []

            def watch(module: Any, query: Tensor, key: Tensor, value: Tensor, scores: list[Tensor] = scores) -> None:
                scores.append(asked_score(score, module, query, key)[:, : len(self.ids)])

            greedy(self.model, looking, asking, 1, self.ends, watch=watch)
            kept = keep_top(self.context, torch.stack(scores), self.state, recent=recent)
            answers.append(self._behind(kept, asking))
            nbytes = kept.nbytes
        return Answered(answers, nbytes)

    def asking(self) -> list[list[int]]:
        """The tokens of each question, as they follow the conversation."""
        found = [self._templated([*self.messages, {"role": "user", "content": q}], True) for q in self.questions]
        assert all(ids[: len(self.ids)] == self.ids.tolist() for ids in found), "the template changes earlier turns"
        return [ids[len(self.ids) :] for ids in found]

    def _behind(self, kept: Kept, asking: list[int]) -> str:
        copy = dataclasses.replace(kept, cache=whole(Context(self.ids, kept.cache, {})).cache)
        answer = greedy(self.model, copy, asking, ANSWER_TOKENS, self.ends)
        return str(self.tokenizer.decode(answer, skip_special_tokens=True))

    def last_messages(self, budget: int) -> list[Message]:
        """The last exchanges that fit into so many tokens."""
        first = len(self.messages)
        while first >= 2 and len(self._templated(self.messages[first - 2 :], False)) <= budget:
            first -= 2
        return self.messages[first:]

    def _templated(self, messages: Sequence[Message], asking: bool) -> list[int]:
        text = self.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking)
        return self.tokenizer(text, add_special_tokens=False).input_ids


def nothing(bench: Bench) -> Answered:
    return Answered(bench.prompted(lambda question: []), 0)


def full(bench: Bench) -> Answered:
    return bench.from_keys(whole(bench.context))


def window(bench: Bench) -> Answered:
    return bench.from_keys(
        streaming_llm(bench.model, bench.ids, bench.state - bench.sinks + 1, bench.sinks, anchored=True)
    )


def evicting(score: str, recent: float = 0.0) -> Callable[[Bench], Answered]:
    def row(bench: Bench) -> Answered:
        scores = bench.context.scores[score]
        return bench.from_keys(keep_top(bench.context, scores, bench.state, recent=int(recent * bench.state)))

    return row


def evicting_asked(score: str, recent: float = 0.0) -> Callable[[Bench], Answered]:
    return lambda bench: bench.from_chosen_keys(score, int(recent * bench.state))


def repeating(bench: Bench) -> Answered:
    return bench.from_keys(kvzip(bench.context, bench.repeated, bench.state))


def noting(bench: Bench) -> Answered:
    """Rare sentences and the last messages, half of the state each."""
    told = understand(bench.messages, bench.tokenizer, 512)
    notes = written((s.text for s in told.statements), bench.tokenizer)
    kept = as_turn(notes[n] for n in best(notes, bench.notes_budget))
    before = [*kept, *bench.last_messages(bench.state - bench.notes_budget)]
    return Answered(bench.prompted(lambda question: before), bench.state * bench.token_bytes)


def retrieval(bench: Bench) -> Answered:
    """BM25 over the messages, as many as the state holds tokens; all text is kept."""
    said = [message["content"] for message in bench.messages]
    sizes = [len(bench.tokenizer(text).input_ids) for text in said]
    index = bm25s.BM25()
    index.index(bm25s.tokenize(said, stopwords="en", show_progress=False), show_progress=False)

    def before(question: str) -> list[Message]:
        asked = bm25s.tokenize([question], stopwords="en", show_progress=False)
        ranked, scores = index.retrieve(asked, k=len(said), show_progress=False)
        left, found = bench.state, []
        for number, score in zip(ranked[0], scores[0]):
            if score > 0 and sizes[number] <= left:
                found.append(int(number))
                left -= sizes[number]
        text = "\n".join(said[number] for number in sorted(found))
        return [{"role": "user", "content": text}, THANKS] if found else []

    return Answered(bench.prompted(before), len("\n".join(said).encode()))


def summary(bench: Bench) -> Answered:
    recollector = Recollector(bench.converted, bench.tokenizer)
    written_down = recollector.answers([(bench.messages, SUMMARY)], longest=SUMMARY_TOKENS)[0]
    told = [{"role": "user", "content": written_down}, THANKS]
    return Answered(bench.prompted(lambda question: told), len(written_down.encode()))


def remembering(with_notes: bool) -> Callable[[Bench], Answered]:
    def row(bench: Bench) -> Answered:
        memory = bench.consolidated
        if not with_notes:
            entries = tuple(dataclasses.replace(entry, notes=()) for entry in memory.entries)
            memory = dataclasses.replace(memory, entries=entries)
        return in_process_of_its_own(bench, memory)

    return row


def next_token_lora(bench: Bench) -> Answered:
    from .baselines import next_token_memory

    memory = next_token_memory(bench.converted, bench.tokenizer, bench.messages, LORA_STEPS)
    return in_process_of_its_own(bench, memory)


def in_process_of_its_own(bench: Bench, memory: Memory) -> Answered:
    with tempfile.TemporaryDirectory() as directory:
        found = in_fresh_process(bench.name, str(memory.save(Path(directory))), bench.questions, elsewhere=True)
    nbytes = memory.nbytes + sum(note.tokens for note in memory.notes) * bench.token_bytes
    return Answered(found["answers"], nbytes, {name: found[name] for name in DRIFTS})


ROWS: dict[str, Callable[[Bench], Answered]] = {
    "no context": nothing,
    "full context": full,
    "StreamingLLM": window,
    "SnapKV": evicting("snapkv"),
    "H2O": evicting("h2o", recent=0.5),
    "KVzip": repeating,
    "SnapKV, question known": evicting_asked("snapkv"),
    "H2O, question known": evicting_asked("h2o", recent=0.5),
    "notepad + last messages": noting,
    "BM25": retrieval,
    "summary": summary,
    "next-token LoRA": next_token_lora,
    "consolidated memory": remembering(with_notes=False),
    "consolidated memory + notepad": remembering(with_notes=True),
}
SLOW = ("next-token LoRA", "consolidated memory", "consolidated memory + notepad")  # many minutes a conversation


def scored(talk: Sessions, answers: Sequence[str]) -> list[dict[str, Any]]:
    """What each answer is worth: right, stale, mixed up with another fact of the conversation, or invented."""
    known = {answer for asked in talk.asked for answer in (*asked.answers, asked.stale) if answer}
    return [_scored(asked, answer, known, talk.sessions) for asked, answer in zip(talk.asked, answers, strict=True)]


def _scored(asked: Asked, answer: str, known: set[str], sessions: int) -> dict[str, Any]:
    wanted = [words(one) for one in asked.answers]
    right = any(holds(answer, one) for one in wanted) if wanted else not is_invented(answer)
    stale = asked.stale is not None and holds(answer, words(asked.stale)) and not right
    others = known - {*asked.answers, asked.stale}
    mixed = not right and not stale and any(
        holds(answer, words(other)) for other in others if not holds(asked.question, words(other))
    )  # fmt: skip
    return {
        "kind": asked.kind, "lag": sessions - 1 - asked.session if asked.session >= 0 else None, "right": right,
        "stale": stale, "mixed": mixed, "f1": max((f1(answer, one) for one in asked.answers), default=float(right)),
        "answer": answer,
    }  # fmt: skip


def f1(answer: str, wanted: str) -> float:
    """LoCoMo's score of an answer: the harmonic mean of precision and recall over stems, articles left out."""
    given, right = (Counter(stem(word) for word in words(text) if word not in ARTICLES) for text in (answer, wanted))
    common = sum((given & right).values())
    return 2 * common / (given.total() + right.total()) if common else 0.0
