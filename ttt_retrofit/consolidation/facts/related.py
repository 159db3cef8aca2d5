"""Which texts are about the same: by the words they share, the rarer the more, in any language."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache, lru_cache

from .checks import WORD, alike, caseless, folded
from .languages import Language, nearest

APOSTROPHE = re.compile("['’]")  # "dog's", "l'eau"
OFTEN = 3  # texts that have a word which tells none of them apart
STEM = 5  # letters by which forms of one word are one


def terms(text: str) -> set[str]:
    """Words by their first letters, those with an apostrophe by their parts; of scripts without spaces, characters."""
    said = folded(text)
    words = (part for word in WORD.findall(said) for part in APOSTROPHE.split(word))
    return {word[:STEM] if word.isalpha() else word for word in words} | set(caseless(said))


def of_others(text: str, own: str, texts: Sequence[str]) -> set[str]:
    """Terms of a text that its own source does not have but others of `texts` do.

    Words that a third of the texts have, or any text in their language, are of none in particular; so are characters.
    """
    mine = terms(own)
    lent = (terms(text) - mine) & _rare(tuple(texts))
    if not lent:
        return set()
    lent = {term for term in lent if not caseless(term)} - common(nearest(text))
    return {term for term in lent if not any(alike(term, word) for word in mine)}


def shared(text: str, other: str) -> int:
    """How many words of a text are of another one, too, in whatever form."""
    theirs = terms(other)
    return sum(any(alike(term, word) for word in theirs) for term in terms(text))


@lru_cache(maxsize=4)  # every question about some statements is held against all of them
def _rare(texts: tuple[str, ...]) -> frozenset[str]:
    """Terms of texts that fewer than a third of them have."""
    counts = Counter(term for text in texts for term in terms(text))
    return frozenset(term for term, count in counts.items() if count < max(OFTEN, len(texts) / OFTEN))


@cache
def common(language: Language) -> frozenset[str]:
    """Terms of an example. It is about nobody, so most of them are words of any text in its language: "the", "not"."""
    return frozenset(terms(language.text))


class Related:
    """Texts that can be asked for those that share most with another text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.terms = [terms(text) for text in texts]
        counts = Counter(term for found in self.terms for term in found)
        self.weight = {term: math.log(1 + len(texts) / count) for term, count in counts.items()}

    def to(self, text: str, most: int, before: int | None = None) -> list[int]:
        """Numbers of at most so many texts that share something, in their order; of those `before` one, where given."""
        wanted = terms(text)
        scored = {n: sum(self.weight[term] for term in found & wanted) for n, found in enumerate(self.terms[:before])}
        best = sorted((n for n, score in scored.items() if score > 0), key=lambda n: -scored[n])[:most]
        return sorted(best)
