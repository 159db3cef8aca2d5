"""Chat messages, as they are handed over and as a tokenizer's template takes them.

Some templates accept only alternating turns: Gemma's and Mistral's raise where two messages of one role follow each
other, and Gemma's knows no system prompt. A special token that the template writes is a token. One that a message
contains is text, so that no message can begin a turn.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..errors import InputError, quoted

Message = dict[str, str]
STUDIED = ("user", "assistant")  # roles
UNSTUDIED = ("system", "developer", "tool", "function")
TEXTS = ("text", "input_text", "output_text")  # types of parts
SILENT = ("tool_use", "tool_result", "tool_call", "function_call", "thinking", "redacted_thinking", "reasoning")
CALLS = {"tool_calls", "function_call"}
GREETING = "Hello."  # the user's message in front of a conversation that the assistant begins


def exchanges(turns: Iterable[tuple[str, str]]) -> list[Message]:
    """What was asked and answered, turn by turn, as messages."""
    return [
        message
        for asked, answered in turns
        for message in ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    ]


def is_message(found: Any) -> bool:
    """Whether it is a `Message` as a session keeps it: with the day that it was said, or of an earlier version; and
    marked where a conversation begins with it.
    """
    return (
        isinstance(found, dict)
        and set(found) - {"date", "conversation"} == {"role", "content"}
        and all(isinstance(value, str) for value in found.values())
        and ("date" not in found or _is_day(found["date"]))
    )


def _is_day(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def studied(messages: Sequence[Any]) -> list[Message]:
    """What of a conversation becomes memory: what the user and the assistant said, in words.

    What an application wrote is no part of it: system prompts, and what tools are, are asked and give back. Messages
    without words, such as calls of tools, are left out.

    Raises
    ------
    InputError
        For what is no message; and for a message of the user or the assistant that holds what cannot be studied, such
        as an image.
    """
    found: list[Message] = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role in UNSTUDIED:
            continue
        if role not in STUDIED:
            raise InputError(
                f"Chat message {number} is {quoted(message)}; expected {{'role': ..., 'content': ...}} with one of the "
                f"roles {[*STUDIED]}, which are studied, or {[*UNSTUDIED]}, which are not."
            )
        said = text_of(message, number)
        if said.strip():
            found.append({"role": role, "content": said})
    return found


def text_of(message: dict[str, Any], number: int) -> str:
    """The text of a message, whose content may come in parts."""
    said = message.get("content")
    if isinstance(said, str):
        return said
    if said is None and message.keys() & CALLS:
        return ""
    if not isinstance(said, list):
        raise InputError(
            f"Chat message {number} is {quoted(message)}; expected {{'role': ..., 'content': ...}} with a text."
        )
    texts = []
    for part in said:
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get("text") if isinstance(part, dict) else part
        if kind in SILENT:
            continue
        if kind not in TEXTS or not isinstance(text, str | None):
            raise InputError(
                f"Chat message {number} holds a part of type {kind!r}, expected text: nothing else can be studied. "
                "Remove it, or describe it in words."
            )
        texts.append(text or "")
    return " ".join(texts)


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
    split_special_tokens : encode special tokens that messages contain as text, so that none of them can begin a turn of
        another role; False lets them be tokens. Where messages contain none, both give the same ids.

    Raises
    ------
    InputError
        When the template refuses the messages, and also refuses them as turns of user and assistant. When a tokenizer
        cannot encode a special token as text.
    """
    tools = [settings.get("tools", ()), *(message.get("tool_calls") for message in messages)]
    of_tools: Message = {"role": "tool", "content": json.dumps(tools, ensure_ascii=False)}
    if split_special_tokens and _has_special_tokens(tokenizer, [*messages, of_tools]):
        if _has_special_tokens(tokenizer, [{"role": "tool", "content": "\n".join(_keys(tools))}]):
            raise InputError("A name of a tool's parameter spells a special token. Rename it.")
        settings = {**settings, "sanitize_control_tokens": True}
    try:
        try:
            return _applied(tokenizer, messages, settings)
        except TemplateError:
            return _applied(tokenizer, alternating(messages), settings)
    except TemplateError as error:
        raise InputError(f"The model's chat template refuses these messages: {error}") from error
    except ValueError as error:
        if "sanitize_control_tokens" not in settings:
            raise
        raise InputError(
            f"A message spells a special token, and this tokenizer cannot write it as text: {error}. Remove it from "
            "the message, or trust it and let it be a token with split_special_tokens=False."
        ) from error


def _keys(value: Any) -> Iterator[str]:
    """The keys of dictionaries, which templates write, and transformers would leave as special tokens."""
    if isinstance(value, dict):
        yield from value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _keys(part)


def alternating(messages: Sequence[Message]) -> list[Message]:
    """The messages as alternating turns of user and assistant, the user's first. Neighbours of one role are joined.

    Messages of other roles become the user's.
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


def _has_special_tokens(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> bool:
    """Whether a message contains the text of a token that directs the model."""
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
