"""Facts by the words of a question, without a model."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from .facts import Fact

# A word, or one sign of a script that writes no spaces (kana, ideographs).
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def search(facts: Sequence[Fact], query: str, most: int = 10) -> list[Fact]:
    """The facts that hold words of a query, best first; of equals the newest first.

    A word counts by its rarity among the facts. It is found at the beginning of a longer one, too ("dog" in "dogs").

    Parameters
    ----------
    facts : oldest first, as `memory.facts()` gives them.
    most : how many facts to return at most.
    """
    words = [_words(fact.text) for fact in facts]
    holding = {
        wanted: {number for number, of in enumerate(words) if any(word.startswith(wanted) for word in of)}
        for wanted in _words(query)
    }
    scores = [0.0] * len(facts)
    for found in holding.values():
        for number in found:
            scores[number] += math.log(1 + len(facts) / len(found))
    best = sorted(range(len(facts)), key=lambda number: (scores[number], number), reverse=True)
    return [facts[number] for number in best[:most] if scores[number]]


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.casefold()))
