"""Facts by the words of a question: without a model, and by no language in particular.

A word counts by its rarity among the facts, as in BM25 (Robertson and Zaragoza, 2009), of which a sentence needs no
more: its words stand in it once, and it is about as long as any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ..util.texts import folded
from .facts import Fact

# Scripts that write words together: Thai, Lao, Burmese, Khmer, kana, ideographs.
JOINED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"([{JOINED}]+)|([^\W_{JOINED}]+)")
FORM = 3  # letters that forms of one word share at least
LIKE = 0.6  # the share of the longer word that they share


def search(facts: Sequence[Fact], query: str) -> list[tuple[Fact, float]]:
    """The facts that share words with a query, best first; of equals the newest first.

    Parameters
    ----------
    facts : oldest first, as `memory.facts()` gives them.

    Returns
    -------
    Each with its score: the share of the query's words that it has, in (0, 1], the rarer the more. Another form of a
    word ("dogs" for "dog") counts in part.
    """
    words = [_words(fact.text) for fact in facts]
    vocabulary = set[str]().union(*words)
    scores, whole = [0.0] * len(facts), 0.0
    for wanted in _words(query):
        forms = {word: like for word in vocabulary if (like := _likeness(wanted, word))}
        found = [max((forms[word] for word in of & forms.keys()), default=0.0) for of in words]
        count = sum(map(bool, found)) or 1  # a word that no fact has is as rare as a word can be
        weight = math.log(1 + (len(facts) - count + 0.5) / (count + 0.5))
        whole += weight
        scores = [score + weight * share for score, share in zip(scores, found)]
    best = sorted(range(len(facts)), key=lambda number: (scores[number], number), reverse=True)
    return [(facts[number], scores[number] / whole) for number in best if scores[number]]


def _words(text: str) -> set[str]:
    """The words of a text, folded; of scripts that write them together, the signs, alone and in pairs."""
    said = set[str]()
    for joined, word in WORD.findall(folded(text)):
        said |= {word} if word else {joined[n : n + size] for n in range(len(joined)) for size in (1, 2)}
    return said


def _likeness(one: str, other: str) -> float:
    """1 for one word, less for two forms of it: the share of the longer that both begin with. 0 for two words."""
    if one == other:
        return 1.0
    if not (one.isalpha() and other.isalpha()):  # a number has no forms
        return 0.0
    shorter, longer = sorted((len(one), len(other)))
    same = next((n for n in range(shorter) if one[n] != other[n]), shorter)
    return same / longer if same >= FORM and same > LIKE * longer else 0.0
