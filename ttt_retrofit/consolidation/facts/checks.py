"""Checks of a written fact against what was said, by no language in particular.

Names, numbers and codes are what a small writer gets wrong, and what must not be wrong. In every language they are the
words with digits or capital letters; in scripts that know no capitals, the characters. Each has to stand in the source.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ...util.texts import folded as folded

WORD = re.compile(r"[^\W_]+(?:[.'’:/@&+-][^\W_]+)*")  # "J.R.", "ingest-eu", "14:20", "l'eau"
# Before the first word of a sentence; a full stop behind a short word may be of an abbreviation.
BEGINS = re.compile(r"(?:^|[!?…:;–]\s|[^\W\d_]{5}\.\s)[^\w]*$")
DIGITS = re.compile(r"\d+")
PRONOUN = re.compile(r"I(?:['’]\w+)?")  # English writes its first person with a capital; it is no name


def caseless(text: str) -> list[str]:
    """The letters of scripts that know no capitals. Most of these write words together, a character or two each."""
    return [c for c in text if c.isalpha() and not (c.isupper() or c.islower())]


def words_of(text: str) -> set[str]:
    """The words of a text, folded; of scripts that write them together, the characters."""
    said = folded(text)
    return set(WORD.findall(said)) | set(caseless(said))


def verbatim(text: str) -> list[str]:
    """The words of a fact that must stand in its source: those with a digit, and those with a capital letter.

    The first word of a sentence has a capital in any case, and is left out unless it holds more than one or a digit.
    """
    found = []
    for match in WORD.finditer(text):
        word, first = match[0], BEGINS.search(text[: match.start()]) is not None
        capitals = sum(character.isupper() for character in word)
        said = any(character.isdigit() for character in word) or capitals > (1 if first else 0)
        if said and not PRONOUN.fullmatch(word):
            found.append(word)
    return found


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """The names, numbers and codes of texts, folded. At the beginning of a sentence a name is not told from a word."""
    return frozenset(folded(word) for text in texts for word in verbatim(text))


def missing(text: str, sources: Iterable[str], allowed: Collection[str] = ()) -> list[str]:
    """The names, numbers and codes of a fact that stand neither in its sources nor among `allowed` words.

    Parameters
    ----------
    allowed : words that a fact may have of its own, such as the parts of a date that was computed.
    """
    said = folded("\n".join(sources))
    numbers = set(DIGITS.findall(said))
    words = {folded(word) for word in WORD.findall(said)}
    may = {folded(word) for word in allowed}
    return [word for word in verbatim(text) if not (folded(word) in may or _stands(folded(word), said, words, numbers))]


def _stands(word: str, said: str, words: Collection[str], numbers: Collection[str]) -> bool:
    """Whether a word stands in a text: a number as that very number, a name in any of its forms.

    Of a run of characters without spaces only its numbers count: `unlike` is about the others.
    """
    if digits := DIGITS.findall(word):
        whole = bool(caseless(word)) or word in said
        return word in words or (whole and all(number in numbers for number in digits))
    return among(word, words)


def alike(one: str, other: str) -> bool:
    """Whether two words are forms of one: the shorter begins the longer, but for its last letter (Klara, Klarze)."""
    beginning = max(4, min(len(one), len(other)) - 1)
    return one == other or (min(len(one), len(other)) >= 4 and one[:beginning] == other[:beginning])


def among(word: str, words: Iterable[str]) -> bool:
    """Whether words hold a form of one."""
    return any(alike(word, other) for other in words)


def unlike(text: str, sources: Iterable[str]) -> float:
    """The share of a fact's characters, in scripts without capitals, that its sources do not hold.

    0 for texts in other scripts: there `missing` decides.
    """
    letters = caseless(text)
    said = set("".join(sources))
    return sum(c not in said for c in letters) / len(letters) if letters else 0.0


def holds(answer: str, value: Collection[str]) -> bool:
    """Whether an answer has every word of a value, whatever else it says."""
    said = folded(answer)
    return bool(value) and all(_held(word, said) for word in value)


def _held(word: str, said: str) -> bool:
    """A whole word where words are written apart; an ending may differ where it is long."""
    if caseless(word):
        return word in said
    ending = "" if len(word) > 4 and word.isalpha() else r"(?!\w)"
    stem = word[: max(4, len(word) - 2)] if ending == "" else word
    return re.search(rf"(?<!\w){re.escape(stem)}{ending}", said) is not None
