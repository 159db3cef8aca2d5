"""The rows of `benchmarks.needle`: each reads a context, keeps a bounded state, and answers from that state alone."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ttt_retrofit import TTTCache, TTTConfig, wrap

from .baselines import fine_tuned, text_memory
from .harness import rows
from .harness.prompts import Recollector
from .harness.retrieval import BM25
from .harness.rows import evicting, evicting_asked, full, repeating, streaming
from .needles import Needle, found
from .systems import notepad
from .systems.answer import greedy
from .systems.asked import Looked, look
from .systems.evict import Kept, Score, keep_top, read, whole
from .systems.expected_attention import expected_attention
from .systems.h2o import h2o
from .systems.less_is_more import less_is_more
from .systems.quest import quest
from .systems.snapkv import snapkv
from .systems.tova import tova
from .systems.watch import Watch

# RULER allows 128 tokens; an answer that goes on for longer than these has no value left to give.
ANSWER_TOKENS = {"number": 24, "uuid": 56}
TRAINED_STEPS, TRAINED_PART = 100, 512  # of the founding experiment: steps, and tokens of the context in each
Answered = tuple[str, int]  # the answer, and the bytes it was answered from


def learning_config(window: int, sinks: int) -> TTTConfig:
    """How the library reads in the rows of this benchmark."""
    return TTTConfig(sliding_window=window, sink_tokens=sinks, chunk_size=min(256, window))


class Bench(rows.Bench):
    """One needle after another."""

    made = ("context", "repeated", "looked", "sentences", "learnt")

    def __init__(self, name: str, window: int, sinks: int, device: str = "cpu") -> None:
        super().__init__(name, window - 1 + sinks, sinks, device)
        self.window = window

    @property
    def scores(self) -> dict[str, Score]:
        return {
            "snapkv": snapkv, "h2o": h2o, "tova": tova,
            "expected": expected_attention(self.model.model.rotary_emb),
        }  # fmt: skip

    @property
    def ending(self) -> list[int]:
        return self.tokenizer("\n", add_special_tokens=False).input_ids

    def ids_of(self, text: str) -> Tensor:
        """(N,), where the model is."""
        return torch.tensor(self.tokenizer(text).input_ids, device=self.device)

    def take(self, needle: Needle) -> None:
        """The next needle; what was made of the last one goes."""
        self.needle = needle
        self.ids = self.ids_of(needle.context)
        self.question: list[int] = self.tokenizer(needle.question, add_special_tokens=False).input_ids
        self.forget()

    def start_again(self) -> None:
        self.forget(*self.made, "converted")

    @cached_property
    def converted(self) -> Any:
        """A second model, which reads with updates."""
        return wrap(self.base(), learning_config(self.window, self.sinks))

    @cached_property
    def learnt(self) -> TTTCache:
        """The context read with updates; to be copied before anything is read behind it."""
        return self.converted.read(self.ids)

    @cached_property
    def sentences(self) -> list[notepad.Sentence]:
        return notepad.sentences_of(self.needle.context, self.tokenizer)

    @property
    def asked_ids(self) -> Tensor:
        """(Q,) of the question."""
        return torch.tensor(self.question, device=self.device)

    @property
    def half(self) -> int:
        """Tokens of the window that a notepad leaves."""
        return self.window // 2

    def notable(self) -> tuple[list[notepad.Sentence], int]:
        """The sentences that a notepad may take, and its tokens. What is in the window as a whole is there already."""
        left = len(self.ids) - self.half
        return [p for p in self.sentences if p.tokens and p.tokens[0] < left], self.state - self.half - self.sinks

    def noted(self) -> bool:
        """Whether the needle is among the rarest sentences, as many as a notepad takes."""
        parts, budget = self.notable()
        kept = notepad.best(parts, notepad.by_rarity(parts), budget)
        return any(self.needle.value in parts[number].text for number in kept)

    @cached_property
    def looked(self) -> Looked:
        """The question, read behind the whole context."""
        return look(self.model, self.context, self.question, ("snapkv", "h2o", "tova"))

    def answer(self, kept: Kept, watch: Watch | None = None, one_by_one: bool = False) -> Answered:
        nbytes = kept.nbytes  # before the question is read into it
        question = [] if kept.logits is not None else self.question
        written = greedy(
            self.model, kept, question, self.limit, self.ends, self.complete, watch=watch, one_by_one=one_by_one
        )
        return str(self.tokenizer.decode(written)), nbytes

    def answer_asked(self, score: str, recent: int) -> Answered:
        kept = keep_top(self.context, self.looked.scores[score], self.state, recent=recent)
        nbytes = kept.nbytes
        return self.answer(self.looked.behind(kept))[0], nbytes

    @property
    def limit(self) -> int:
        return ANSWER_TOKENS["uuid" if "-" in self.needle.value else "number"]

    def complete(self, written: list[int]) -> bool:
        """Whether the value is there: the rest of an answer changes no score."""
        return found(self.needle, self.tokenizer.decode(written))


def nothing(bench: Bench) -> Answered:
    return bench.answer(Kept(DynamicCache(), 0))


def sparse(kind: str) -> Callable[[Bench], Answered]:
    def row(bench: Bench) -> Answered:
        layers = len(bench.context.cache.layers)
        watch = quest(bench.state) if kind == "quest" else less_is_more(bench.state, layers)
        return bench.answer(whole(bench.context), watch, one_by_one=True)

    return row


def noting(chooser: str, kept_as: str) -> Callable[[Bench], Answered]:
    def row(bench: Bench) -> Answered:
        (parts, budget), window = bench.notable(), bench.half
        by_rarity = chooser == "rarity"
        scores = notepad.by_rarity(parts) if by_rarity else notepad.by_reconstruction(parts, bench.repeated)
        if kept_as == "keys":
            kept = notepad.as_keys(bench.context, parts, scores, budget, window, bench.sinks)
        else:
            kept = notepad.as_text(bench.model, bench.tokenizer, bench.ids, parts, scores, budget, window)
        return bench.answer(kept)

    return row


def retrieval(bench: Bench) -> Answered:
    """BM25 over sentences, as many as the state holds tokens. All text is kept, in 4 bytes a token."""
    texts = [part.text for part in bench.sentences]
    scores = [score for _, score in sorted(BM25(texts).ranked(bench.needle.question))]
    best = notepad.best(bench.sentences, scores, bench.state)
    ids = bench.ids_of(" ".join(texts[n] for n in best))
    return bench.answer(whole(read(bench.model, ids)))[0], 4 * len(bench.ids)


def learning(context_kept: bool) -> Callable[[Bench], Answered]:
    """This library reading the context, then the question; with its window, or out of its fast weights alone.

    Without the context, the tokens at its end that still wait for their chunk to be full are gone unlearned.
    """

    def row(bench: Bench) -> Answered:
        model = bench.converted
        cache, before = deepcopy(bench.learnt), bench.ids
        if not context_kept:
            fast, cache, before = cache.fast, model.new_cache(), bench.ids[:0]
            cache.fast = fast
        nbytes = cache.nbytes
        given = torch.cat([before, bench.asked_ids])[None]
        out = model.generate(
            given, attention_mask=torch.ones_like(given), past_key_values=cache, max_new_tokens=bench.limit,
            do_sample=False,
        )  # fmt: skip
        return str(bench.tokenizer.decode(out[0, given.shape[1] :])), nbytes

    return row


def training(kind: str) -> Callable[[Bench], Answered]:
    """Next-token training on the haystack with its needle; then the question alone, by LoRA or with all weights."""

    def row(bench: Bench) -> Answered:
        if kind == "all weights":
            tuned = fine_tuned(bench.model, bench.ids, TRAINED_STEPS, part=TRAINED_PART)
            written = greedy(tuned, Kept(DynamicCache(), 0), bench.question, bench.limit, bench.ends, bench.complete)
            return str(bench.tokenizer.decode(written)), sum(p.nbytes for p in tuned.parameters())
        model = bench.converted
        memory = text_memory(model, bench.ids, TRAINED_STEPS, part=TRAINED_PART)
        asked = bench.asked_ids[None]
        out = model.generate(
            asked,
            attention_mask=torch.ones_like(asked),
            max_new_tokens=bench.limit,
            do_sample=False,
            learn_from="none",
            memories=[memory],
        )
        return str(bench.tokenizer.decode(out[0, asked.shape[1] :])), memory.nbytes

    return row


def remembering(bench: Bench) -> Answered:
    """`consolidate` on the text, its defaults; the question through the chat template."""
    model = bench.converted
    model.reset_memory()
    with tempfile.TemporaryDirectory() as work:
        memory = model.consolidate(
            bench.needle.context, tokenizer=bench.tokenizer, work_dir=work, load=False, min_recall=0.0, max_drift=1.0
        )
    if not memory.entries:
        raise RuntimeError(f"nothing was remembered: {memory.report.reason}")
    asked = bench.needle.question.strip().split("?")[0] + "?"
    answers = Recollector(model, bench.tokenizer, memory).answers([([], asked)], longest=bench.limit)
    return answers[0], memory.nbytes


ROWS: dict[str, Callable[[Bench], Answered]] = {
    "full attention": full,
    "no context": nothing,
    "window": streaming(sinks=False, anchored=False),
    "window + sinks": streaming(sinks=True, anchored=False),
    "StreamingLLM, re-anchored": streaming(sinks=True, anchored=True),
    "SnapKV": evicting("snapkv"),
    "H2O": evicting("h2o", recent=0.5),
    "TOVA": evicting("tova"),
    "expected attention": evicting("expected"),
    "KVzip": repeating,
    "SnapKV, question known": evicting_asked("snapkv"),
    "H2O, question known": evicting_asked("h2o", recent=0.5),
    "TOVA, question known": evicting_asked("tova"),
    "Quest": sparse("quest"),
    "LessIsMore": sparse("less is more"),
    "TTT": learning(context_kept=True),
    "TTT, context removed": learning(context_kept=False),
    "notepad: rare sentences, text": noting("rarity", "text"),
    "notepad: rare sentences, keys": noting("rarity", "keys"),
    "notepad: reconstruction, text": noting("reconstruction", "text"),
    "notepad: reconstruction, keys": noting("reconstruction", "keys"),
    "BM25": retrieval,
    "next-token LoRA": training("LoRA"),
    "full fine-tuning": training("all weights"),
    "consolidated memory": remembering,
}
RARE = ("notepad: rare sentences, text", "notepad: rare sentences, keys")
SLOW = ("next-token LoRA", "full fine-tuning", "consolidated memory")  # minutes for each needle
GROUPS = {"founding": ("no context", *SLOW[:2])}  # of rows, by a name of their own
