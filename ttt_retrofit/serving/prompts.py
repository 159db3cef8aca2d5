"""Prompts: the token ids of a conversation, and what of one is too long to be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..util.messages import prompt_ids
from .admission import Limits
from .protocol import ApiError, ChatRequest


class Prompts:
    """What conversations are in tokens, by a tokenizer of its own.

    Parameters
    ----------
    split_special_tokens : encode special tokens that a message contains as text, see `messages.prompt_ids`.

    Raises
    ------
    InputError
        For a tokenizer without a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, split_special_tokens: bool = True) -> None:
        if tokenizer.chat_template is None:
            raise InputError(
                f"The tokenizer {tokenizer.name_or_path!r} has no chat template, so messages cannot be put to the "
                "model. Serve a model that was tuned for chat, or set tokenizer.chat_template."
            )
        # Consolidations use the tokenizer at the same time; its settings are not safe to share between threads.
        self.tokenizer, self.split_special_tokens = deepcopy(tokenizer), split_special_tokens

    def ids(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """The token ids of a conversation that waits for an answer, or for a call of one of the tools.

        Raises
        ------
        InputError
            When the chat template refuses these messages.
        """
        settings = {"tools": list(tools)} if tools else {}
        return prompt_ids(self.tokenizer, messages, split_special_tokens=self.split_special_tokens, **settings)


def check_text(messages: Sequence[dict[str, Any]], params: ChatRequest, limits: Limits) -> None:
    """Raise `ApiError` where a prompt is too long to have its tokens counted."""
    size = sum(len(message["content"].encode()) for message in messages)
    if params.uses_tools:
        size += len(json.dumps([params.offered, *(message.get("tool_calls") for message in messages)]))
    if size > limits.max_text or len(messages) > limits.max_prompt:
        raise too_long(
            f"{len(messages):,} messages of {size:,} bytes are a longer prompt than this server reads: at most "
            f"{limits.max_prompt:,} tokens, and {limits.max_text:,} bytes"
        )


def check_tokens(ids: Sequence[int], limits: Limits) -> None:
    """Raise `ApiError` where a prompt has more tokens than are read."""
    if len(ids) > limits.max_prompt:
        raise too_long(f"The prompt has {len(ids):,} tokens; this server reads at most {limits.max_prompt:,}")


def too_long(message: str) -> ApiError:
    return ApiError(400, f"{message}. Send less of the conversation.", "messages", "context_length_exceeded")
