"""Texts as token ids: what stands before a text, and nothing behind it."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

SHOWN = 100  # characters that tell what a tokenizer puts before a text


def text_ids(
    tokenizer: PreTrainedTokenizerBase, text: str, *, begins: bool = True, split_special_tokens: bool = False
) -> list[int]:
    """The token ids of a text that is read.

    Parameters
    ----------
    begins : nothing was read before it: it gets the tokens that the tokenizer puts before a text, such as BOS, unless
        it spells them itself, as a rendered chat template does. What goes on from something gets none.
    split_special_tokens : encode special tokens that the text spells as text.

    Returns
    -------
    Without what a tokenizer puts behind a text, such as EOS: whatever is read may go on.
    """
    ids = _plain(tokenizer, text, split_special_tokens)
    beginning = _beginning(tokenizer, text[:SHOWN]) if begins else []
    return ids if ids[: len(beginning)] == beginning else beginning + ids


def _beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """What the tokenizer puts before a text."""
    whole, ids = list(tokenizer(text, verbose=False).input_ids), _plain(tokenizer, text)
    places = range(len(whole) - len(ids) + 1)
    return whole[: next((place for place in places if whole[place : place + len(ids)] == ids), 0)]


def _plain(tokenizer: PreTrainedTokenizerBase, text: str, split: bool = False) -> list[int]:
    settings = {"split_special_tokens": True} if split else {}
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **settings).input_ids)
