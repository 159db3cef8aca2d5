"""Asking a model through its chat template, greedily; and what its answers are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttt_retrofit import Memory
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.writer import Writer
from ttt_retrofit.util.prompt_formatter import PromptFormatter

Message = dict[str, str]
ANSWER_TOKENS = 32
THANKS: Message = {"role": "assistant", "content": "Thank you for telling me."}
# Where an answer says that it does not know; everything else about something never said is invented.
ABSTAINS = (
    "don't have", "do not have", "can't assist", "cannot assist", "i'm sorry", "i am sorry", "not sure", "don't know",
    "do not know", "as an ai", "i am an ai", "unable to", "no information", "i'm not a", "i am not a",
)  # fmt: skip


def told(text: str) -> list[Message]:
    """An exchange in which the user says it."""
    return [{"role": "user", "content": text}, THANKS]


def templated(tokenizer: Any, messages: Sequence[Message], asking: bool) -> list[int]:
    """The tokens of messages; of what an answer begins with, too, where they ask for one."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=asking)
    return tokenizer(text, add_special_tokens=False).input_ids


def is_invented(answer: str) -> bool:
    return bool(answer.strip()) and not any(said in answer.lower() for said in ABSTAINS)


class Recollector:
    """Asks a converted model, with a memory or without."""

    def __init__(self, model: Any, tokenizer: Any, memory: Memory | None = None) -> None:
        self.writer = Writer(model, tokenizer, cache=model.new_cache, memories=memory, learn_from="none")
        self.formatter = PromptFormatter(tokenizer, Prompts.load().plain)

    def answers(self, asked: Sequence[tuple[Sequence[Message], str]], longest: int = ANSWER_TOKENS) -> list[str]:
        """The answer to each question after its messages."""
        prompts = [self.formatter.asked(question, before) for before, question in asked]
        return [self.writer.text(answer) for answer in self.writer.answer(prompts, longest, kept=1)]
