"""Texts compared, and as token ids: what stands before a text, what ends an answer, what texts begin with alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

SHOWN = 100  # characters that tell what a tokenizer puts before a text


def folded(text: str) -> str:
    """For comparisons: one form of every character (NFKC), without case or accents."""
    parts = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(character for character in parts if not unicodedata.combining(character))
    return unicodedata.normalize("NFC", bare)  # syllables of Hangul are whole again


def text_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, *, begins: bool = True, split_special_tokens: bool = False
) -> list[int]:
    """The token ids of a text that is read.

    Parameters
    ----------
    begins : nothing was read before it: it gets the tokens that the tokenizer puts before a text, such as BOS, unless
        the text contains them itself, as a rendered chat template does. A text that continues another gets none.
    split_special_tokens : encode special tokens that the text contains as text.

    Returns
    -------
    Without what a tokenizer puts behind a text, such as EOS: whatever is read may go on.
    """
    ids = _plain(tokenizer, text, split_special_tokens)
    beginning = _beginning(tokenizer, text[:SHOWN]) if begins else []
    return ids if ids[: len(beginning)] == beginning else beginning + ids


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end an answer."""
    configured = model.generation_config.eos_token_id if model.generation_config is not None else None
    found = configured if isinstance(configured, list) else [configured, tokenizer.eos_token_id]
    return {token for token in found if token is not None}


def common_beginning(prompts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all prompts begin with, leaving each at least one of its own."""
    if not prompts:
        return []
    first, least = prompts[0], min(len(prompt) for prompt in prompts) - 1
    shared = next((n for n in range(least) if any(prompt[n] != first[n] for prompt in prompts)), least)
    return list(first[: max(shared, 0)])


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What the tokenizer puts before a text."""
    whole, ids = list(tokenizer(text, verbose=False).input_ids), _plain(tokenizer, text)
    places = range(len(whole) - len(ids) + 1)
    return whole[: next((place for place in places if whole[place : place + len(ids)] == ids), 0)]


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, split: bool = False) -> list[int]:
    settings = {"split_special_tokens": True} if split else {}
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **settings).input_ids)
