"""Questions and answers as a model is asked and gives them, in token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from .messages import Message, exchanges, prompt_ids
from .texts import text_ids

LONGEST_OPENER = 8  # tokens
# Contents of messages that begin with different tokens, by which the template's own are told from what it was given.
ONE, OTHER = "what", "the"


class PromptFormatter:
    """Turns messages into token ids: through the chat template where there is one, else by plain prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, plain: str) -> None:
        self.tokenizer, self.plain = tokenizer, plain
        self.chat = tokenizer.chat_template is not None
        # Answers are studied, not the thoughts before them; templates that know no thinking may refuse the word.
        self.settings: dict[str, Any] = (
            {"enable_thinking": False} if "enable_thinking" in str(tokenizer.chat_template) else {}
        )

    def asked(self, question: str, before: Sequence[Message] = ()) -> list[int]:
        """A question by the user, after earlier messages, up to where the answer begins."""
        if self.chat:
            return prompt_ids(self.tokenizer, [*before, {"role": "user", "content": question}], **self.settings)
        context = "\n".join(message["content"] for message in before)
        filled = self.plain.replace("{context}", context + "\n\n" if context else "").replace("{question}", question)
        return text_ids(self.tokenizer, filled.lstrip("\n"), split_special_tokens=True)

    def asked_after(self, asked: str, replied: str, question: str) -> list[int]:
        """A question after one more and what was replied to it."""
        return self.asked(question, exchanges([(asked, replied)]))

    @cached_property
    def empty(self) -> list[int]:
        """The prompt of no question."""
        return self.asked("")

    @cached_property
    def opener(self) -> tuple[int, ...]:
        """What the template opens a user's turn with, wherever in a chat it stands: at most the last 8 tokens of it.

        Empty without a template, and where no such tokens tell a user's turn from the assistant's.
        """
        if not self.chat:
            return ()
        first = _alike(self.asked(ONE), self.asked(OTHER))
        later = _alike(self.asked_after(ONE, ONE, ONE), self.asked_after(ONE, ONE, OTHER))
        common = _alike(first[::-1], later[::-1])[:LONGEST_OPENER][::-1]
        # What stands from the user's words to the assistant's, after which one of them answers or is about to.
        replies = (_alike(self.asked_after(ONE, ONE, ONE), self.asked_after(ONE, OTHER, ONE)), self.asked(ONE))
        return () if any(_holds(reply[len(first) :], common) for reply in replies) else tuple(common)

    def question_of(self, prompt: Sequence[int]) -> str:
        """The question in a prompt that `asked` made without earlier messages."""
        empty = self.empty
        pairs = min(len(prompt), len(empty))
        first = next((n for n in range(pairs) if prompt[n] != empty[n]), pairs)
        last = next((n for n in range(pairs - first) if prompt[-1 - n] != empty[-1 - n]), pairs - first)
        return str(self.tokenizer.decode(list(prompt[first : len(prompt) - last]), skip_special_tokens=True)).strip()

    def said(self, answer: str) -> list[int]:
        """An answer as the model would give it after `asked`, with the token that ends it."""
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        text = answer if self.chat else " " + answer
        return text_ids(self.tokenizer, text, begins=False, split_special_tokens=True) + end


def _alike(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """What both begin with."""
    pairs = min(len(one), len(other))
    return list(one[: next((n for n in range(pairs) if one[n] != other[n]), pairs)])


def _holds(ids: Sequence[int], some: Sequence[int]) -> bool:
    return any(list(ids[place : place + len(some)]) == list(some) for place in range(len(ids) - len(some) + 1))
