"""Many questions behind one context: what all of them begin with is read once, however long it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from ttt_retrofit import Memory
from ttt_retrofit.consolidation.model_copies import plain_copy
from ttt_retrofit.util.texts import common_beginning, end_tokens

from ..systems.answer import greedy
from ..systems.evict import Context, whole
from .loading import carrier, tokenizer_of
from .prompts import Message, Recollector

LONG = 2048  # tokens that all prompts begin with, from which they are answered one by one behind them
READ = 1024  # tokens of them that are read at a time
BATCH = 16_384  # tokens of prompts that are answered together


class Answers(NamedTuple):
    texts: list[str]
    tokens: float  # of a prompt, mean
    seconds: float  # of all of them together


@dataclass
class Asker:
    """A model that carries memories, asked greedily through its chat template."""

    name: str
    model: Any
    tokenizer: Any

    @classmethod
    def of(cls, name: str) -> Asker:
        return cls(name, carrier(name, sliding_window=None), tokenizer_of(name))

    @property
    def window(self) -> int:
        """The tokens that the model was made for."""
        return int(self.model.config.get_text_config(decoder=True).max_position_embeddings)

    def size(self, text: str) -> int:
        return len(self.tokenizer(text, add_special_tokens=False).input_ids)

    def answers(
        self, asked: Sequence[tuple[Sequence[Message], str]], longest: int, memory: Memory | None = None
    ) -> Answers:
        """The answer to each question after its messages."""
        began = time.perf_counter()
        recollector = Recollector(self.model, self.tokenizer, memory)
        prompts = [recollector.formatter.asked(question, before) for before, question in asked]
        shared = common_beginning(prompts)
        if memory is None and len(shared) > LONG:
            texts = self._behind(shared, [prompt[len(shared) :] for prompt in prompts], longest)
        else:
            batch = max(1, min(32, BATCH // max(map(len, prompts))))
            given = recollector.writer.answer(prompts, longest, batch=batch, kept=1)
            texts = [recollector.writer.text(answer) for answer in given]
        return Answers(texts, sum(map(len, prompts)) / len(prompts), time.perf_counter() - began)

    @torch.no_grad()
    def _behind(self, shared: Sequence[int], own: Sequence[Sequence[int]], longest: int) -> list[str]:
        plain = plain_copy(self.model)
        context = Context(torch.tensor(shared, device=plain.device), DynamicCache(config=plain.config), {})
        for part in context.ids.split(READ):
            plain(input_ids=part[None], past_key_values=context.cache, use_cache=True, logits_to_keep=1)
        ends = end_tokens(plain, self.tokenizer)
        found = [greedy(plain, whole(context), ids, longest, ends) for ids in own]
        return [str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]

    def ids(self, text: str) -> Any:
        """(N,) tokens of a text."""
        return torch.tensor(self.tokenizer(text, add_special_tokens=False).input_ids)
