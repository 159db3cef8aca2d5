"""What is handed over in place of something else, and what to write instead.

`transformers` answers each of these with an AttributeError inside its own code.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import InputError

TEMPLATED = "tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors='pt')"


def check_ids(given: Any, call: str) -> None:
    """Raise `InputError` where `given` is no tensor of token ids, nor None.

    call: as the user writes it, such as "model.generate".
    """
    if given is None or isinstance(given, Tensor):
        return
    kind = type(given).__name__
    if _is_messages(given):
        raise InputError(f"{call}() was given chat messages; it takes token ids: {call}(**{TEMPLATED}).")
    if isinstance(given, Mapping):
        tensors = all(isinstance(value, Tensor) for value in given.values())
        made = "" if tensors else " Make it of tensors, with return_tensors='pt'."
        raise InputError(f"{call}() was given a {kind} in place of token ids. Unpack it: {call}(**batch).{made}")
    if _is_text(given):
        raise InputError(
            f"{call}() was given a text; it takes token ids: {call}(**tokenizer(text, return_tensors='pt'))."
        )
    raise InputError(f"{call}() was given a {kind}; expected a tensor of token ids of shape (batch, tokens).")


def check_text_or_ids(given: Any) -> None:
    """Raise `InputError` for what `read` takes neither for a text nor for token ids."""
    if _is_messages(given):
        raise InputError(
            "read() was given chat messages; expected text or token ids. Write them as one text: "
            "model.read(tokenizer.apply_chat_template(messages, tokenize=False))."
        )
    if isinstance(given, Mapping):
        raise InputError(
            f"read() was given a {type(given).__name__}; expected text or token ids. Take them out of it: "
            "model.read(batch['input_ids']), with attention_mask= where there is padding."
        )
    if not isinstance(given, (str, Tensor, list, tuple)):
        raise InputError(f"read() was given a {type(given).__name__}; expected text or token ids.")


def check_tokenizer(tokenizer: Any) -> None:
    """Raise `InputError` for the name of one."""
    if isinstance(tokenizer, (str, os.PathLike)):
        raise InputError(
            f"tokenizer={os.fspath(tokenizer)!r} is a name. Load it first: AutoTokenizer.from_pretrained(name)."
        )


def _is_text(given: Any) -> bool:
    texts = isinstance(given, Sequence) and len(given) > 0 and all(isinstance(part, str) for part in given)
    return isinstance(given, str) or texts


def _is_messages(given: Any) -> bool:
    """One message, or a list of them, or of conversations."""
    if isinstance(given, Mapping):
        return "role" in given
    return isinstance(given, (list, tuple)) and len(given) > 0 and _is_messages(given[0])
