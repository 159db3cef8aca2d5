"""Chat messages, as they are handed over and as a tokenizer's template takes them.

Some templates take nothing but turns of two: Gemma's and Mistral's raise where two messages of one role follow each
other, and Gemma's knows no system prompt. What a template writes are tokens, what a message says is text: by spelling
tokens, no message can begin a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .errors import InputError, quoted

Message = dict[str, str]
GREETING = "Hello."  # what the user says before a model that speaks first


def read_messages(messages: Sequence[Any]) -> list[Message]:
    """Role and text of every message that has words; one that only calls a tool has none.

    Raises
    ------
    InputError
        For what is no message.
    """
    found: list[Message] = []
    for message in messages:
        fields = message if isinstance(message, dict) else {}
        role, said = fields.get("role"), fields.get("content")
        if isinstance(said, list):  # parts, as multimodal templates have them
            said = " ".join(part.get("text", "") for part in said if isinstance(part, dict))
        if said is None and fields.get("tool_calls"):
            said = ""
        if not isinstance(role, str) or not isinstance(said, str):
            raise InputError(
                f"A chat message is {quoted(message)}; expected {{'role': ..., 'content': ...}} with a text."
            )
        if said.strip():
            found.append({"role": role, "content": said})
    return found


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    *,
    split_special_tokens: bool = True,
    **settings: Any,
) -> list[int]:
    """The token ids of a conversation that waits for an answer. settings: of the template.

    Parameters
    ----------
    split_special_tokens : encode special tokens that messages spell as text, so that none of them can begin a turn of
        another role; False lets them be tokens. Where messages spell none, both give the same ids.

    Raises
    ------
    InputError
        When the template refuses the messages, and also refuses them as turns of user and assistant. When a tokenizer
        cannot spell a special token as text.
    """
    if split_special_tokens and _spells_tokens(tokenizer, messages):
        settings = {**settings, "sanitize_control_tokens": True}
    try:
        try:
            return _applied(tokenizer, messages, settings)
        except TemplateError:
            return _applied(tokenizer, in_turns(messages), settings)
    except TemplateError as error:
        raise InputError(f"The model's chat template refuses these messages: {error}") from error
    except ValueError as error:
        if "sanitize_control_tokens" not in settings:
            raise
        raise InputError(
            f"A message spells a special token, and this tokenizer cannot write it as text: {error}. Take it out of "
            "the message, or trust it and let it be a token with split_special_tokens=False."
        ) from error


def in_turns(messages: Sequence[Message]) -> list[Message]:
    """The messages as turns of user and assistant: the first is the user's, and neighbours of one role are one.

    What is neither is said by the user.
    """
    turns: list[Message] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += "\n\n" + message["content"]
            continue
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": GREETING})
        turns.append({"role": role, "content": message["content"]})
    return turns


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], settings: dict[str, Any]) -> list[int]:
    given: Any = list(messages)
    return list(tokenizer.apply_chat_template(given, add_generation_prompt=True, return_dict=False, **settings))


def _spells_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> bool:
    """Whether a message holds what would be a token that directs the model."""
    template, special = str(tokenizer.chat_template), tuple(tokenizer.all_special_tokens)
    of_all, of_template = _directing(tokenizer, len(tokenizer), template, special)
    return any(
        of_all.search(message["content"]) or (message["role"] != "assistant" and of_template.search(message["content"]))
        for message in messages
    )


@lru_cache(maxsize=8)  # some tokenizers have thousands of added tokens
def _directing(
    tokenizer: PreTrainedTokenizerBase, size: int, template: str, special: tuple[str, ...]
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds special tokens, and what finds others that the template writes.

    Those others may be the assistant's: templates look for the ends of its thoughts.
    """
    added = tokenizer.added_tokens_decoder.values()
    written = [token.content for token in added if token.content in template and not token.content.isspace()]
    return _any_of([*special, *(token.content for token in added if token.special)]), _any_of(written)


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")  # which matches nothing
