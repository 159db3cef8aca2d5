"""PEFT's Cartridge as a memory: a trained prefix of keys and values (Eyuboglu et al. 2025), studied like `consolidate`.

The same questions and answers and the same loss on the teacher's kept logits; what differs is where they are learned.
Unless lessons and steps of a consolidation are given, it is taught nothing to decline, in a number of steps of its own.
A cartridge is in front of every prompt, related or not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import CartridgeConfig, get_peft_model
from peft.tuners.cartridge.utils import initialize_kv_prefix_from_text
from rich.progress import track
from torch.nn.utils.rnn import pad_sequence

from ttt_retrofit import ConsolidationConfig
from ttt_retrofit.consolidation.config import Budget
from ttt_retrofit.consolidation.control import Control
from ttt_retrofit.consolidation.facts.writers import ModelWriter
from ttt_retrofit.consolidation.model_copies import plain_copy
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.lessons import lesson
from ttt_retrofit.consolidation.study.pieces import parse_context
from ttt_retrofit.consolidation.study.studied import Studying
from ttt_retrofit.consolidation.train.distill import mean_divergence
from ttt_retrofit.consolidation.writer import Writer
from ttt_retrofit.memory.lessons import Lesson
from ttt_retrofit.util.prompt_formatter import PromptFormatter

from .harness.prompts import Message

VIRTUAL_TOKENS = 128  # of keys and values in every layer
FROZEN = 1  # the first, as the paper has it: models attend to it always
STEPS, BATCH, LR = 200, 8, 5e-3
ANSWER_TOKENS = 32


@dataclass
class Cartridge:
    """A model behind a trained prefix."""

    model: Any
    tokenizer: Any
    formatter: PromptFormatter

    @property
    def nbytes(self) -> int:
        """Bytes of the prefix in 16 bits, of what is frozen in it, too."""
        return 2 * sum(p.numel() for p in self.model.prompt_encoder.parameters())

    @torch.no_grad()
    def answers(self, questions: Sequence[str]) -> list[str]:
        """Greedy answers, one by one: PEFT's prefix and left padding do not go together."""
        found = []
        for question in questions:
            ids = torch.tensor([self.formatter.asked(question)])
            out = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False,
                repetition_penalty=1.0, temperature=None, top_p=None, top_k=None, pad_token_id=0,
            )  # fmt: skip
            found.append(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
        return found

    @torch.no_grad()
    def loss(self, ids: torch.Tensor) -> float:
        """Mean next-token loss of a text behind the prefix, nats. ids: (1, T)."""
        logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] : -1].float()
        return torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()


def lessons_of(model: Any, tokenizer: Any, messages: Sequence[Message]) -> list[Lesson]:
    """What `consolidate` would study."""
    config, prompts, control = ConsolidationConfig(), Prompts.load(), Control(Budget())
    teacher, formatter = Writer(plain_copy(model), tokenizer), PromptFormatter(tokenizer, prompts.plain)
    context = parse_context(list(messages), tokenizer, config.piece_tokens)
    writer = ModelWriter("", teacher, formatter)
    studied = Studying(context, teacher, writer, formatter, prompts, config, control).study(())
    return [lesson(question, formatter) for question in studied.asked]


def train(
    model: Any,
    tokenizer: Any,
    messages: Sequence[Message],
    lessons: Sequence[Lesson] | None = None,
    tokens: int = VIRTUAL_TOKENS,
    steps: int = STEPS,
) -> tuple[Cartridge, float]:
    """A cartridge that answers as the model does with the conversation before it; and the seconds it took.

    It begins as the keys and values of the conversation's first `tokens` tokens; without `lessons` they are studied.
    """
    began = time.perf_counter()
    lessons = lessons_of(model, tokenizer, messages) if lessons is None else lessons
    assert lessons, "nothing was studied"
    plain = plain_copy(model)
    behind = get_peft_model(
        plain, CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens, num_frozen_tokens=FROZEN)
    )
    text = tokenizer.apply_chat_template(list(messages), tokenize=False)
    initialize_kv_prefix_from_text(behind, tokenizer, text=text, use_chat_template=False, max_length=tokens)
    trained = [parameter for parameter in behind.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, weight_decay=0.0)
    generator = torch.Generator().manual_seed(0)
    order: list[int] = []
    for step in track(range(steps), description="Cartridge"):
        while len(order) < BATCH:
            order += torch.randperm(len(lessons), generator=generator).tolist()
        chosen, order = [lessons[index] for index in order[:BATCH]], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - step / steps)
        optimizer.zero_grad()
        loss = _loss(behind, chosen)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    formatter = PromptFormatter(tokenizer, Prompts.load().plain)
    return Cartridge(behind.eval(), tokenizer, formatter), time.perf_counter() - began


def _loss(behind: Any, chosen: Sequence[Lesson]) -> torch.Tensor:
    rows = [torch.tensor([*lesson.prompt, *lesson.answer]) for lesson in chosen]
    ids, mask = pad_sequence(rows, batch_first=True), pad_sequence([torch.ones_like(row) for row in rows], True)
    with torch.enable_grad():
        logits = behind(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]
        spans = [range(len(lesson.prompt) - 1, len(row) - 1) for lesson, row in zip(chosen, rows)]
        answers = torch.cat([logits[row, list(span)] for row, span in enumerate(spans)])
        loss = mean_divergence(answers, chosen)
    if not math.isfinite(loss.item()):
        raise FloatingPointError("the cartridge diverged")
    return loss
