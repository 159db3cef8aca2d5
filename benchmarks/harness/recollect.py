"""Answers from a memory alone: python -m benchmarks.harness.recollect MODEL MEMORY [elsewhere] < questions.json

The questions are a list of [messages before it, question]. With "elsewhere", also how the memory changes the loss on
texts and the answers to questions that have nothing to do with it.

Run as a process of its own, it has no key, value or word of what the memory was made from.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ttt_retrofit import Memory

from ..texts import text
from .loading import carrier, tokenizer_of
from .prompts import Message, Recollector

DRIFT_TOKENS = 1024
DRIFTS = {"drift_prose": "emma", "drift_code": "turtle"}
# Questions about nothing personal, others than the library measures gates on, one in a line.
GENERAL = Path(__file__).parents[1] / "data" / "general_questions.txt"
GENERAL_TOKENS = 16  # of each answer are compared


def in_fresh_process(
    model: str,
    memory: str,
    questions: Sequence[str],
    before: Sequence[Sequence[Message]] | None = None,
    elsewhere: bool = False,
) -> dict[str, Any]:
    """Answers from a memory alone.

    `before` are the messages that each question comes after, if it is not the first; `elsewhere` also measures what
    else the memory changes.
    """
    command = [sys.executable, "-m", __spec__.name, model, memory, *(["elsewhere"] if elsewhere else [])]
    asked = json.dumps([*zip(before or [[]] * len(questions), questions)])
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"The process that was to remember failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@torch.no_grad()
def loss(model: Any, ids: torch.Tensor, memory: Memory | None) -> float:
    """Mean next-token loss, nats."""
    logits = model(input_ids=ids, memories=[memory], learn_from="none").logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def drift_ids(tokenizer: Any, key: str) -> torch.Tensor:
    """(1, T) tokens of a text that has nothing to do with any conversation."""
    return tokenizer(text(DRIFTS[key]), return_tensors="pt").input_ids[:, 2000 : 2000 + DRIFT_TOKENS]


def changed(model: Any, tokenizer: Any, memory: Memory, every: int = 1) -> float:
    """The share of general questions (all, or one in `every`) that are answered otherwise than without the memory."""
    asked = [([], question) for question in GENERAL.read_text().splitlines()[::every]]
    without, with_it = (Recollector(model, tokenizer, m).answers(asked, GENERAL_TOKENS) for m in (None, memory))
    return sum(a != b for a, b in zip(without, with_it)) / len(asked)


def main() -> None:
    name, directory, *also = sys.argv[1:]
    questions = json.load(sys.stdin)
    model, tokenizer = carrier(name), tokenizer_of(name)
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
