"""Which words of a sentence carry its information: names, numbers, and what is not a function word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from importlib import resources

from .facts.checks import caseless, folded

# Vowel signs and accents of their own, which Python counts as no letters.
MARKS = "".join(mark for mark in map(chr, range(0x300, 0x10000)) if unicodedata.category(mark) in ("Mn", "Mc"))
LETTERS = rf"[\w{MARKS}]+"
WORD = re.compile(rf"{LETTERS}(?:[-'.:/@]{LETTERS})*")  # a code, a time of day or a hyphenated word is one
WORD_OR_MARK = re.compile(rf"{WORD.pattern}|[^\w\s]")
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
OPENERS = re.compile(
    r"^(?:(?:oh|ah|well|so|also|and|but|anyway|actually|btw|fyi|ok|okay|yes|no|by the way|in fact|you know|"
    r"just so you know|for the record|as i said)\b[,:;.!]?\s+)+",
    re.IGNORECASE,
)
# A few words and a colon that only announce what is told: "Something has changed: my ...".
ANNOUNCED = re.compile(
    r"^(?!.*\b(?:my|our)\b.*:)[\w' ]{3,40}:\s+(?=(?:my|our|i|i'm|i've|we|the|his|her|he|she|their|they)\b)",
    re.IGNORECASE,
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


def value(answer: str, question: str, source: str) -> set[str]:
    """What an answer gives that its question did not: the words it took from the source."""
    told, asked = stems(source), stems(question)
    return {word for word in content(answer) if stem(word) in told and stem(word) not in asked}


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


def details(sentence: str) -> list[str]:
    """The parts of a sentence that a question may be about: runs of words that carry information, names first."""
    runs: list[list[re.Match]] = [[]]
    before = ""
    for match in WORD_OR_MARK.finditer(sentence):
        word = match.group()
        # What "I" did is what a question needs to keep.
        if word[0].isalnum() and informs(word, first=not before) and not (before == "I" and word.islower()):
            runs[-1].append(match)
        elif runs[-1]:
            runs.append([])
        before = word
    # A long run is several things in a row ("my kitchen silver last week"), a name or number apart.
    runs = [
        part for run in runs for part in ([run] if len(run) < 3 or salient(run[-1].group()) else [[m] for m in run])
    ]
    found = [sentence[run[0].start() : run[-1].end()].removesuffix("'s") for run in runs if run]
    return sorted(dict.fromkeys(found), key=lambda part: not salient(part))


def salient(part: str) -> bool:
    """Whether a part of a sentence holds a name or a number."""
    return any(character.isupper() or character.isdigit() for character in part)


def names(sentence: str) -> set[str]:
    """The names and numbers of a sentence, lower case; its first word may be capitalised for no reason."""
    found = [match.group() for match in WORD.finditer(sentence)]
    return {_bare(word) for word in found[1:] if salient(word)}


def made_up(answer: str, told: set[str]) -> set[str]:
    """The names and numbers of an answer that are not among the stems `told`; "AM" and "UK" are no names."""
    found = {word for word in names(answer) & content(answer) if len(word) > 2 or not word.isalpha()}
    return {word for word in found if stem(word) not in told}


def without_opener(sentence: str) -> str:
    """A sentence without the words that only lead up to it: "Oh, and by the way, my ..."."""
    return _shortened(sentence, OPENERS.sub("", sentence))


def without_announcement(sentence: str) -> str:
    """What somebody tells without the few words that announce it: "One more thing: my ..."."""
    rest = OPENERS.sub("", sentence)
    return _shortened(sentence, ANNOUNCED.sub("", rest))


def _shortened(sentence: str, rest: str) -> str:
    return rest[:1].upper() + rest[1:] if rest != sentence else sentence


def sentences(text: str) -> list[str]:
    """The sentences of a text; lines end them too, unless the text was wrapped."""
    text = WRAPPED.sub(" ", text)
    parts = ENDED.split(text)
    return [part.strip() for part in parts if part and part.strip()]


def resemblance(one: str, other: str) -> float:
    """Share of words that two questions have in common, from 0 to 1 (Jaccard)."""
    a, b = set(words(one)), set(words(other))
    return len(a & b) / len(a | b) if a | b else float(one.strip() == other.strip())
