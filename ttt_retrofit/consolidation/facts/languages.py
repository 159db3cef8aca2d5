"""The examples that writers are shown, in the language nearest to what they read.

A small writer goes on in the language of its examples, whatever it is told. `py3langid` recognises it; for a language
that has no block, a related one serves.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from .checks import WORD, folded

APART = re.compile("['’]")  # "j'ai"
SURE = 0.5  # probability of a language; a word or two, or code, are of none for sure, and get the first block


@dataclass(frozen=True)
class Language:
    """One block of `languages.toml`, whose comments say what each part is."""

    code: str
    talk: str
    facts: str
    questions: tuple[tuple[str, str], ...]
    document: tuple[str, str]
    answers: tuple[tuple[str, str], ...]
    told_back: tuple[str, str]
    unknown: str
    first_person: frozenset[str]  # folded words by which people speak of themselves, such as "my"
    second_person: frozenset[str]  # by which they speak to somebody, such as "your"
    spaces: bool = True  # between words
    names: bool = True  # whether a capital within a sentence tells a name; in German every noun has one

    @property
    def text(self) -> str:
        """All of it."""
        pairs = (*self.questions, self.document, *self.answers)
        return "\n".join([self.talk, self.facts, *(part for pair in pairs for part in pair), self.unknown])

    def speaks(self, text: str) -> bool:
        """Whether somebody speaks of themselves in it: "my"."""
        return self._has(self.first_person, text)

    def before_speaker(self, text: str) -> str:
        """What stands before the first word by which somebody speaks of themselves; all of it where none does."""
        first = (m.start() for m in WORD.finditer(text) if self.speaks(m[0]))
        return text[: next(first, len(text))]

    def addresses(self, text: str) -> bool:
        """Whether somebody is spoken to in it: "your"."""
        return self._has(self.second_person, text)

    def _has(self, pronouns: frozenset[str], text: str) -> bool:
        said = folded(text)
        parts = (part for word in WORD.findall(said) for part in (word, *APART.split(word)))
        return not pronouns.isdisjoint(parts) if self.spaces else any(pronoun in said for pronoun in pronouns)

    @property
    def retold(self) -> tuple[tuple[str, str], ...]:
        """What people say, and how it is told to them: a reply, a fact told in passing, and a plain one."""
        talk = [line.partition(": ")[2] for line in self.talk.splitlines()]
        facts = [line.partition("] ")[2] for line in self.facts.splitlines()]
        sold, by_tram = self.told_back
        return (f"{talk[3]} – {talk[4]}", by_tram), (talk[2], sold), (facts[0], self.answers[0][1])

    @property
    def now(self) -> tuple[str, str]:
        """How it is asked how something is now, and the same question without that word."""
        reply = next(said for said, _ in self.questions if "\n" in said)
        return self.talk.splitlines()[3].partition(": ")[2], reply.splitlines()[0].partition(": ")[2]

    @property
    def still(self) -> tuple[str, str]:
        """What no longer is so, and the question whether it still is: the one that is answered second."""
        question = self.answers[1][0]
        return next((said, question) for said, asked in self.questions if question in asked)

    @property
    def no(self) -> str:
        """How the question whether it still is so is answered."""
        return self.answers[1][1]

    @cached_property
    def part_of(self) -> dict[str, str]:
        """The part that each of the example questions asks for."""
        lines = (line.partition("|") for _, asked in self.questions for line in asked.splitlines())
        return {question.strip(): part.strip() for part, _, question in lines}


@cache
def languages() -> tuple[Language, ...]:
    """All blocks; the first is shown beside whichever is nearest."""
    values = tomllib.loads((resources.files(__package__) / "languages.toml").read_text("utf-8"))
    return tuple(
        Language(
            block["code"],
            block["talk"].strip(),
            block["facts"].strip(),
            tuple((said.strip(), asked.strip()) for said, asked in block["questions"]),
            (block["document"][0].strip(), block["document"][1].strip()),
            tuple((question, answer) for question, answer in block["answers"]),
            (block["told_back"][0], block["told_back"][1]),
            block["unknown"],
            frozenset(folded(block["first_person"]).split()),
            frozenset(folded(block["second_person"]).split()),
            block.get("spaces", True),
            block.get("names", True),
        )
        for block in values["languages"]
    )


def nearest(text: str) -> Language:
    """The language of a text; one that has no block is taken for one that has."""
    blocks = {language.code: language for language in languages()}
    code, probability = _identifier().classify(text)
    return blocks[code] if probability >= SURE else languages()[0]


@cache
def _identifier() -> LanguageIdentifier:
    """One of our own: the languages that the package's functions know are set for all who use it."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages([language.code for language in languages()])
    return identifier


def shown(text: str) -> tuple[Language, ...]:
    """The languages whose examples a writer of this text sees, the nearest last: it is followed most."""
    chosen, first = nearest(text), languages()[0]
    return (first, chosen) if chosen is not first else (first,)
