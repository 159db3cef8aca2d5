"""Which texts are about the same: by the words they share, the rarer the more, in any language."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache

from .checks import WORD, among, caseless, folded, verbatim
from .languages import Language, nearest
from .turns import USER

APOSTROPHE = re.compile("['’]")  # "dog's", "l'eau"
OFTEN = 3  # texts that have a word which tells none of them apart
TELLING = 2  # words of a fact by which another one is about the same
SHORT = 3  # letters
STEM = 5  # letters by which forms of one word are one


def terms(text: str) -> set[str]:
    """Words by their first letters, those with an apostrophe by their parts; of scripts without spaces, characters."""
    said = folded(text)
    words = (part for word in WORD.findall(said) for part in APOSTROPHE.split(word))
    return {word[:STEM] if word.isalpha() else word for word in words} | set(caseless(said))


def of_others(text: str, own: str, texts: Sequence[str]) -> set[str]:
    """Terms of a text that its own source does not have but others of `texts` do.

    Words that a third of the texts have, or any text in their language, are of none in particular; nor are characters
    and words of a few letters.
    """
    mine = terms(own)
    lent = (terms(text) - mine) & _rare(tuple(texts))
    if not lent:
        return set()
    lent = {term for term in lent if not caseless(term) and len(term) > SHORT} - common(nearest(text))
    return {term for term in lent if not among(term, mine)}


def shared(text: str, other: str) -> int:
    """How many words of a text are of another one, too, in whatever form."""
    theirs = terms(other)
    return sum(among(term, theirs) for term in terms(text))


@lru_cache(maxsize=4)  # every question about some statements is held against all of them
def _rare(texts: tuple[str, ...]) -> frozenset[str]:
    """Terms of texts that fewer than a third of them have."""
    counts = Counter(term for text in texts for term in terms(text))
    return frozenset(term for term, count in counts.items() if count < max(OFTEN, len(texts) / OFTEN))


@cache
def common(language: Language) -> frozenset[str]:
    """Terms of an example. It is about nobody, so most of its words are of any text in its language: "the", "not"."""
    return frozenset(term for term in terms(language.text) if not term.isdigit())


@cache
def now(language: Language) -> frozenset[str]:
    """Terms by which something is said to be so now, and not only "and" or "so" before it."""
    asked, without = language.now
    return frozenset(term for term in terms(asked) - terms(without) if len(term) > 1)


def is_about(text: str, others: Iterable[str]) -> bool:
    """Whether a text has a word that tells what one of the others is about."""
    said = terms(text)
    return any(not said.isdisjoint(terms(other) - common(nearest(other))) for other in others)


def said_again(told: Sequence[tuple[int, str, str]], since: int = 0) -> dict[int, int]:
    """The facts of which a later one has every word that tells something, each with the last such: it says the same and
    more, or that it is no longer so. For who has no judge of it.

    told : the message, who said it, and what, in order. What the user said is changed by nobody else.
    since : the first fact of which is asked what it ends.
    """
    own = [terms(text) - common(nearest(text)) for _, _, text in told]
    said = [terms(text) for _, _, text in told]
    return {
        earlier: later
        for earlier, later in _may_end(told, since)
        if len(own[earlier]) >= TELLING and all(among(term, said[later]) for term in own[earlier])
    }


def said_anew(told: Sequence[tuple[int, str, str]], since: int = 0) -> dict[int, int]:
    """The facts that are otherwise now by a later one, each with the last such: in the same words, but for "now" and
    the last name, number or code ("I live in Gdynia.", "I live in Oslo now."). For who has no judge of it.

    told, since : see `said_again`. A name before another one that stays is who it is about: "Alex lives in Lyon."
    """
    words = [[folded(word) for word in WORD.findall(text)] for _, _, text in told]
    names = [[folded(word) for word in verbatim(text)] for _, _, text in told]
    anew = [terms(text) & now(nearest(text)) if n >= since else set() for n, (_, _, text) in enumerate(told)]

    def other(one: int, than: int) -> list[str]:
        return [word for word in words[one] if not among(word, words[than])]

    found = {}
    for earlier, later in _may_end(told, since):
        if anew[later] - terms(told[earlier][2]):
            gone = other(earlier, later)
            value = bool(gone) and names[earlier][-len(gone) :] == gone
            if value and len(words[earlier]) - len(gone) >= TELLING and set(names[later]) & set(other(later, earlier)):
                found[earlier] = later
    return found


def _may_end(told: Sequence[tuple[int, str, str]], since: int) -> Iterator[tuple[int, int]]:
    """Of facts the pairs of which the later one may end the earlier one, by who says them."""
    for later in range(since, len(told)):
        message, speaker, _ = told[later]
        for earlier, (before, other, _) in enumerate(told[:later]):
            if message != before and speaker in (other, USER):
                yield earlier, later


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
