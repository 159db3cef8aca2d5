"""Answers questions from a memory alone: python -m benchmarks.recollect MODEL MEMORY [elsewhere] < questions.json

The questions are a list of [messages before it, question]. With "elsewhere", also how the memory changes the loss on
texts and the answers to questions that have nothing to do with it.

Run as a process of its own, it has no key, value or word of what the memory was made from.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ttt_retrofit import Memory, TTTConfig, wrap
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.writer import Phrasing, Writer

from .conversations import Message
from .models import model_directory
from .texts import text

ANSWER_TOKENS = 32
DRIFT_TOKENS = 1024
DRIFTS = {"drift_prose": "emma", "drift_code": "turtle"}
# Questions about nothing personal, others than the library measures gates on, one in a line.
GENERAL = Path(__file__).parent / "data" / "general_questions.txt"
GENERAL_TOKENS = 16  # of each answer are compared
# Where an answer says that it does not know; everything else about something never said is invented.
ABSTAINS = (
    "don't have", "do not have", "can't assist", "cannot assist", "i'm sorry", "i am sorry", "not sure", "don't know",
    "do not know", "as an ai", "i am an ai", "unable to", "no information", "i'm not a", "i am not a",
)  # fmt: skip


def is_invented(answer: str) -> bool:
    return bool(answer.strip()) and not any(said in answer.lower() for said in ABSTAINS)


class Recollector:
    """Asks a model through its chat template, greedily."""

    def __init__(self, model: Any, tokenizer: Any, memory: Memory | None = None) -> None:
        self.writer = Writer(model, tokenizer, cache=model.new_cache, memories=memory, learn_from="none")
        self.phrasing = Phrasing(tokenizer, Prompts.load().plain)

    def answers(self, asked: Sequence[tuple[Sequence[Message], str]], longest: int = ANSWER_TOKENS) -> list[str]:
        """The answer to each question after its messages."""
        prompts = [self.phrasing.asked(question, before) for before, question in asked]
        return [self.writer.text(answer) for answer in self.writer.answer(prompts, longest, kept=1)]


@torch.no_grad()
def loss(model: Any, ids: torch.Tensor, memory: Memory | None) -> float:
    """Mean next-token loss, nats."""
    logits = model(input_ids=ids, memories=[memory], learn_from="none").logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def drift_ids(tokenizer: Any, key: str) -> torch.Tensor:
    """(1, T) tokens of a text that has nothing to do with any conversation."""
    return tokenizer(text(DRIFTS[key]), return_tensors="pt").input_ids[:, 2000 : 2000 + DRIFT_TOKENS]


def changed(model: Any, tokenizer: Any, memory: Memory) -> float:
    """The share of general questions that are answered otherwise than without the memory."""
    asked = [([], question) for question in GENERAL.read_text().splitlines()]
    without, with_it = (Recollector(model, tokenizer, m).answers(asked, GENERAL_TOKENS) for m in (None, memory))
    return sum(a != b for a, b in zip(without, with_it)) / len(asked)


def main() -> None:
    name, directory, *also = sys.argv[1:]
    questions = json.load(sys.stdin)
    path = model_directory(name)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    model, tokenizer = wrap(base, TTTConfig(learn_from="none")), AutoTokenizer.from_pretrained(path)
    memory = Memory.load(directory)
    began = time.perf_counter()
    notes = memory.with_notes([])
    asked = [([*notes, *before], question) for before, question in questions]
    answers = Recollector(model, tokenizer, memory).answers(asked)
    found = {"answers": answers, "seconds": time.perf_counter() - began}
    if also == ["elsewhere"]:
        for key in DRIFTS:
            ids = drift_ids(tokenizer, key)
            found[key] = loss(model, ids, memory) / loss(model, ids, None) - 1
        found["changed"] = changed(model, tokenizer, memory)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
