"""Which words of an answer come out of its context: those that the context made likelier.

"Your dog is called Bolt." is known but for one word. A model that reads the context expects "Bolt", one that does not
expects no name in particular; what comes before it they both expect. So no list of words is needed, in any language, to
tell what a right answer has to hold.
N tokens of an answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Sequence

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .checks import WORD, caseless, folded

GAIN = 1.5  # nats by which the context makes a word's likeliest token likelier
EXPECTED = 0.5  # probability from which a token is expected without the context


def informative(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], with_context: Tensor, without: Tensor
) -> frozenset[str]:
    """The words of an answer that its context made likely; in scripts without spaces, the characters.

    Parameters
    ----------
    ids : (N,) tokens of the answer.
    with_context, without : (N,) log probability of each token, with the context before the question and without.
    """
    expected = without.exp() >= EXPECTED
    gained = ((with_context - without >= GAIN) & ~expected).tolist()
    text, spans = _spans(tokenizer, ids)
    told = [span for span, gains in zip(spans, gained) if gains]
    return frozenset(
        folded(text[first:last]) for first, last in _units(text) if any(a < last and b > first for a, b in told)
    )


def holds(answer: str, value: Collection[str]) -> bool:
    """Whether an answer has every word of a value, whatever else it says."""
    said = folded(answer)
    return bool(value) and all(_stands(word, said) for word in value)


def _stands(word: str, said: str) -> bool:
    """A whole word where words are written apart; an ending may differ where it is long."""
    if caseless(word):
        return word in said
    ending = "" if len(word) > 4 and word.isalpha() else r"(?!\w)"
    stem = word[: max(4, len(word) - 2)] if ending == "" else word
    return re.search(rf"(?<!\w){re.escape(stem)}{ending}", said) is not None


def _spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
    """The text of tokens, and where each of them stands in it."""
    ends = [len(tokenizer.decode(list(ids[:count]), skip_special_tokens=True)) for count in range(len(ids) + 1)]
    return str(tokenizer.decode(list(ids), skip_special_tokens=True)), list(itertools.pairwise(ends))


def _units(text: str) -> list[tuple[int, int]]:
    """Words; of scripts that write them together, characters."""
    found = []
    for match in WORD.finditer(text):
        if caseless(match[0]):
            found += [(place, place + 1) for place in range(*match.span())]
        else:
            found.append(match.span())
    return found
