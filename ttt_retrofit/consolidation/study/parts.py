"""What of a statement is asked for: its names, numbers and codes, and what a writer takes from it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..facts.checks import PRONOUN, WORD, caseless, folded, verbatim
from ..facts.languages import nearest
from ..facts.related import common, terms

OPENING = re.compile(r"(?:[^\s,:，：،]+[ ]?){1,4}[,:，：،]\s*")  # a few words before a comma, such as "By the way,"
JOINED = re.compile(r"[ \u00a0]|\. ")  # between the words of one name: "Harlow Bakery", "Prof. Klein", "14 March"


def parts_of(text: str, names: frozenset[str] = frozenset()) -> list[str]:
    """The names, numbers and codes of a statement as it writes them, words of one name together.

    names : folded words that are known to be names, though a sentence begins with one.
    """
    told = set(verbatim(text))
    found: list[tuple[int, int]] = []
    for match in WORD.finditer(text):
        if PRONOUN.fullmatch(match[0]) or not (match[0] in told or folded(match[0]) in names):
            continue
        if found and JOINED.fullmatch(text[found[-1][1] : match.start()]):
            found[-1] = (found[-1][0], match.end())
        else:
            found.append(match.span())
    return list(dict.fromkeys(text[first:last] for first, last in found))


def without(text: str, names: Sequence[str]) -> str:
    """A text that leaves names out: "My brother lives in Lyon." says whose city it is without one."""
    for name in names:
        text = re.sub(rf"\s*(?<!\w){re.escape(name)}(?!\w)", "", text)
    return text


def without_opening(text: str) -> str:
    """A text without a few words and a comma that it begins with."""
    opening = OPENING.match(text)
    return text[opening.end() :] if opening else text


def telling(text: str) -> Iterator[str]:
    """The words that say what a statement is about: names, numbers, and what is not of any text in its language."""
    of_any, names = common(nearest(text)), {*verbatim(text)}
    for word in WORD.findall(text):
        if not PRONOUN.fullmatch(word) and (word in names or not terms(word) <= of_any):
            yield word


def trimmed(part: str) -> str:
    """A part without the words of any text that it begins and ends with: "Gideon" of "is Gideon"."""
    words, told = [*WORD.finditer(part)], set(telling(part))
    own = [word for word in words if word[0] in told]
    return part[own[0].start() : own[-1].end()] if own else part if caseless(part) else ""


def words_telling(part: str) -> list[str]:
    """The words that give a part away; all of its words where none tells more than others."""
    return [*telling(part)] or WORD.findall(part)
