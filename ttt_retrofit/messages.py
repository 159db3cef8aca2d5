"""Chat messages, as they are handed over and as a tokenizer's template takes them.

Some templates take nothing but turns of two: Gemma's and Mistral's raise where two messages of one role follow each
other, and Gemma's knows no system prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from .errors import InputError

Message = dict[str, str]
GREETING = "Hello."  # what the user says before a model that speaks first


def is_message(found: Any) -> bool:
    """Whether it is a `Message`, as `read_messages` makes them."""
    return (
        isinstance(found, dict)
        and set(found) == {"role", "content"}
        and all(isinstance(value, str) for value in found.values())
    )


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
            raise InputError(f"A chat message is {message!r}; expected {{'role': ..., 'content': ...}} with a text.")
        if said.strip():
            found.append({"role": role, "content": said})
    return found


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **settings: Any) -> list[int]:
    """The token ids of a conversation that waits for an answer. settings: of the template.

    Raises
    ------
    InputError
        When the template refuses the messages, and also refuses them as turns of user and assistant.
    """
    try:
        text = _applied(tokenizer, messages, settings)
    except TemplateError:
        try:
            text = _applied(tokenizer, in_turns(messages), settings)
        except TemplateError as error:
            raise InputError(f"The model's chat template refuses these messages: {error}") from error
    return list(tokenizer(text, add_special_tokens=False).input_ids)


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


def _applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], settings: dict[str, Any]) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **settings))
