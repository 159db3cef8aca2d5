"""Whom or what studied questions are about: names, and what is the user's ("my brother")."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ..facts.checks import WORD, among, caseless, folded, verbatim
from ..facts.languages import Language
from ..facts.related import APOSTROPHE, terms
from .answers import Question
from .parts import telling
from .statements import Statement

OFTEN = 2  # examples of a language, each about something else, that have a word which is about nothing


@dataclass(frozen=True)
class Cut:
    """A question around the word that says whom or what it is about."""

    number: int  # of the question
    before: str
    word: str
    after: str
    owner: str  # the word just before that says whose it is, with what parts it from the word: "my "

    @property
    def around(self) -> tuple[str, str]:
        return folded(self.before), folded(self.after)

    @property
    def subject(self) -> str:
        return f"{self.owner}{self.word}"

    def with_word(self, word: str) -> str:
        return f"{self.before}{word}{self.after}"


def cuts_of(
    questions: Sequence[Question],
    statements: Sequence[Statement],
    language: Language,
    confirmed: Collection[int] = (),
) -> Iterator[Cut]:
    """At every name, and at what is the user's, where a question shares it with its statement: another verb often asks
    for the same.

    confirmed : numbers of questions that are answered by yes or no ("Am I allergic to nuts?"). They are cut at every
        word that tells something.
    """
    for number, question in enumerate(questions):
        own, text = terms(statements[question.statement].source), question.text
        names = {*verbatim(text)} if language.names else set()
        names |= {*telling(text)} if number in confirmed else set()
        for first, last in _words(text):
            before, word = text[:first], text[first:last]
            owner = next((owner for owner in _just_before(before) if language.speaks(owner)), "")
            if first and known(word, own) and (word in names or owner) and not language.speaks(word):
                yield Cut(number, before, word, text[last:], owner)


def known(word: str, told: Collection[str], empty: Collection[str] = ()) -> bool:
    """Whether a word was told, or is about nothing."""
    return any(one in empty or among(one, told) for one in terms(word))


@cache
def about_nothing(language: Language) -> frozenset[str]:
    """Terms of a language that are about nothing: "is", "the", "my"."""
    examples = [" ".join(pair) for pair in (*language.questions, language.document)]
    counts = Counter(term for text in examples for term in terms(text))
    return frozenset(term for term, count in counts.items() if count >= OFTEN) | language.first_person


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Where words begin and end; of scripts without spaces, characters."""
    for match in WORD.finditer(text):
        places = [(match.start() + n, match.start() + n + 1) for n, c in enumerate(match[0]) if caseless(c)]
        stem = APOSTROPHE.split(match[0])[0]  # "boss's"
        yield from places or [(match.start(), match.start() + len(stem))]


def _just_before(text: str) -> list[str]:
    """The last word and what follows it; of scripts without spaces, the last two characters first."""
    last = [text[match.start() :] for match in WORD.finditer(text)][-1:]
    return [text[-2:], *last] if text and caseless(text[-1]) else last
