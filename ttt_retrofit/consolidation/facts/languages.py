"""The examples that writers are shown, in the language nearest to what they read.

A small writer goes on in the language of its examples, whatever it is told. `py3langid` recognises it; for a language
that has no block, a related one serves.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from .checks import WORD, caseless, folded

STEM = 3  # letters that forms of a pronoun share
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
    unknown: str
    names: bool = True  # whether a capital within a sentence tells a name; in German every noun has one

    @property
    def text(self) -> str:
        """All of it."""
        pairs = (*self.questions, self.document, *self.answers)
        return "\n".join([self.talk, self.facts, *(part for pair in pairs for part in pair), self.unknown])

    @cached_property
    def first_person(self) -> frozenset[str]:
        """Words by which people speak of themselves, such as "my": of both the user's questions and facts, and of no
        example that is told or answered by somebody else.
        """
        mine = Counter(_words(self._user_asks)) & Counter(_words(self._user_says))
        others = [
            line for line in (*self.talk.splitlines(), *self.facts.splitlines()) if line.startswith(("[4]", "[6]"))
        ]
        theirs = set(_words(" ".join([self._answered, *self.document, *others, *self.part_of.values()])))
        return frozenset(word for word, count in mine.items() if count > 1 and word not in theirs)

    @cached_property
    def second_person(self) -> frozenset[str]:
        """Words by which the user is spoken to, such as "your": several forms of them stand in the answers alone."""
        others = {*_words(self._user_asks), *_words(self._user_says), *_words(" ".join(self.document))}
        left = [word for word in _words(self._answered) if word not in others]
        stems = Counter(word[:STEM] for word in left)
        return frozenset(word for word in left if stems[word[:STEM]] > 1)

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

    @property
    def _user_asks(self) -> str:
        return " ".join(lines for said, lines in self.questions if "Assistant" not in said.splitlines()[-1])

    @property
    def _user_says(self) -> str:
        return " ".join(line for line in self.facts.splitlines() if not line.startswith(("[2]", "[6]")))

    @property
    def _answered(self) -> str:
        return " ".join(answer for _, answer in self.answers[:2])


def _words(text: str) -> list[str]:
    return [word for word in WORD.findall(folded(text)) if not caseless(word)]


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
            block["unknown"],
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
