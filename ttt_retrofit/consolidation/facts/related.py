"""Which texts are about the same: by the words they share, the rarer the more, in any language."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from .checks import WORD, caseless, folded

APOSTROPHE = re.compile("['’]")  # "dog's", "l'eau"
STEM = 5  # letters by which forms of one word are one


def terms(text: str) -> set[str]:
    """Words by their first letters, those with an apostrophe by their parts; of scripts without spaces, characters."""
    said = folded(text)
    words = (part for word in WORD.findall(said) for part in APOSTROPHE.split(word))
    return {word[:STEM] if word.isalpha() else word for word in words} | set(caseless(said))


class Related:
    """Texts that can be asked for those that share most with another text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.terms = [terms(text) for text in texts]
        counts = Counter(term for found in self.terms for term in found)
        self.weight = {term: math.log(1 + len(texts) / count) for term, count in counts.items()}

    def to(self, text: str, most: int, after: int = -1) -> list[int]:
        """Numbers of at most so many texts that share something, in their order; only those after one of them."""
        wanted = terms(text)
        scored = {
            number: sum(self.weight[term] for term in self.terms[number] & wanted)
            for number in range(after + 1, len(self.terms))
        }
        best = sorted((n for n, score in scored.items() if score > 0), key=lambda n: -scored[n])[:most]
        return sorted(best)
