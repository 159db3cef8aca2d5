"""Which words of a sentence carry its information: names, numbers, and what is not a function word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from importlib import resources

from ttt_retrofit.consolidation.facts.checks import caseless, folded

# Vowel signs and accents of their own, which Python counts as no letters.
MARKS = "".join(mark for mark in map(chr, range(0x300, 0x10000)) if unicodedata.category(mark) in ("Mn", "Mc"))
LETTERS = rf"[\w{MARKS}]+"
WORD = re.compile(rf"{LETTERS}(?:[-'.:/@]{LETTERS})*")  # a code, a time of day or a hyphenated word is one
# Function words of English, and the words with which answers are phrased. In other languages every word counts.
FUNCTION_WORDS = frozenset(resources.files(__package__).joinpath("function_words.txt").read_text().split())
# Of them, those that are names where they are capitalised within a sentence.
NAMES_TOO = {"May", "Will"}

# The end of a line so long that only its length ended it.
WRAPPED = re.compile(r"(?<=[^\n]{50})(?<![.!? \t])[ \t]*\n(?=[ \t]*[\w\"'(])(?![ \t]*\d+[.)])")
# The end of a sentence: not after an abbreviation; of scripts without spaces, without one.
ENDED = re.compile(
    r"(?<=[.!?…।؟۔])(?<!\b(?:Mr|Ms|Dr|St)\.)(?<!\b(?:Mrs|Esq|e\.g|i\.e)\.)[\"')\]]*\s+|(?<=[。！？])(?![」』”）。！？])\s*|\n+"
)

# What forms of one word differ in; at least three letters stay.
ENDING, LAST_LETTER = re.compile(r"(?<=\w{3})(ies|ied|ing|es|ed|s)$"), re.compile(r"(?<=\w{3})[ye]$")

NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
NUMBERS = {word: str(number) for number, word in enumerate(NUMBER_WORDS)}


def words(text: str) -> list[str]:
    """The words of a text, in lower case and in order; a hyphenated code or a time of day is one word."""
    return [_bare(match.group()) for match in WORD.finditer(text)]


def _bare(word: str) -> str:
    return unicodedata.normalize("NFC", word).lower().removesuffix("'s")


def content(text: str) -> set[str]:
    """The words that carry information."""
    found = [match.group() for match in WORD.finditer(text)]
    told = (word for index, word in enumerate(found) if informs(word, first=index == 0 < len(found) - 1))
    return {_bare(word) for word in told}


def informs(word: str, first: bool = False) -> bool:
    """Whether a word carries information; the first of a sentence is capitalised for no reason."""
    return (word in NAMES_TOO and not first) or _bare(word) not in FUNCTION_WORDS


def stems(text: str) -> set[str]:
    return {stem(word) for word in words(text)}


def content_stems(text: str) -> set[str]:
    """Stems of the words that carry information."""
    return {stem(word) for word in content(text)}


def stem(word: str) -> str:
    """A word without its ending, which all its forms share: "study" and "studies", "nine" and "9". Codes stay whole."""
    word = NUMBERS.get(word, word)
    if not word.isalpha():
        return word
    return LAST_LETTER.sub("", ENDING.sub("", word))


def holds(answer: str, wanted: Iterable[str]) -> bool:
    """Whether every wanted word is in the answer, in any form and order; of scripts without spaces, anywhere in it."""
    found, said = stems(answer), folded(answer)
    return all(word in said if caseless(word) else stem(word) in found for word in wanted)


def sentences(text: str) -> list[str]:
    """The sentences of a text; lines end them too, unless the text was wrapped."""
    text = WRAPPED.sub(" ", text)
    parts = ENDED.split(text)
    return [part.strip() for part in parts if part and part.strip()]
