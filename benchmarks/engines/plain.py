"""The answers that engines are held against: transformers and PEFT, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from ..harness.loading import base_model, tokenizer_of
from ..harness.recollect import GENERAL

TOGETHER = 10  # prompts in a batch


def prompts(name: str, count: int, lessons: Sequence[Sequence[int]]) -> list[list[int]]:
    """Token ids of so many prompts: up to half are what a memory was taught, the rest are general questions."""
    tokenizer = tokenizer_of(name)
    found = [list(prompt) for prompt in dict.fromkeys(map(tuple, lessons))][: count // 2]
    for question in GENERAL.read_text().splitlines()[: count - len(found)]:
        said = [{"role": "user", "content": question}]
        found.append(tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"])
    return found


class Plain:
    """A base and adapters by name, as PEFT runs them."""

    def __init__(self, name: str, adapters: dict[str, Path], tokens: int) -> None:
        self.tokens = tokens
        first, *others = adapters
        self.model: Any = PeftModel.from_pretrained(base_model(name, torch.float32), adapters[first], first)
        for other in others:
            self.model.load_adapter(adapters[other], other)
        ends = self.model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self.pad = self.model.generation_config.pad_token_id

    @torch.no_grad()
    def answers(self, adapter: str | None, asked: Sequence[Sequence[int]]) -> list[list[int]]:
        """Greedy, without the token that ends them; `None` is the base."""
        found: list[list[int]] = []
        for start in range(0, len(asked), TOGETHER):
            batch = asked[start : start + TOGETHER]
            width = max(map(len, batch))
            ids = torch.tensor([[self.pad] * (width - len(prompt)) + list(prompt) for prompt in batch])
            mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
            settings = {"do_sample": False, "max_new_tokens": self.tokens, "attention_mask": mask}
            if adapter is None:
                with self.model.disable_adapter():
                    out = self.model.generate(input_ids=ids, **settings)
            else:
                self.model.set_adapter(adapter)
                out = self.model.generate(input_ids=ids, **settings)
            found += [self.ended(row) for row in out[:, width:].tolist()]
        return found

    @torch.no_grad()
    def margin(self, adapter: str, prompt: Sequence[int], said: Sequence[int], other: int | None) -> float:
        """How far the next token that PEFT prefers is ahead of another one, in nats; `None` is the end."""
        self.model.set_adapter(adapter)
        scores = self.model(torch.tensor([[*prompt, *said]])).logits[0, -1]
        return float(scores.max() - scores[[*self.ends] if other is None else [other]].max())

    def ended(self, answer: Sequence[int]) -> list[int]:
        """An answer up to the token that ends it."""
        end = next((index for index, token in enumerate(answer) if token in self.ends), len(answer))
        return list(answer[:end])
