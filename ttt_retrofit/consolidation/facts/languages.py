"""The examples that writers are shown, in the language nearest to what they read.

A small writer goes on in the language of its examples, whatever it is told. Which block is nearest is found by runs of
three characters, so no language has to be recognised; for one that has no block, a related one serves.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

from .checks import folded

RUN = 3  # characters


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

    @property
    def text(self) -> str:
        return "\n".join([self.talk, self.facts, *(part for pair in self.questions for part in pair)])


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
        )
        for block in values["languages"]
    )


def nearest(text: str) -> Language:
    """The language whose block shares most with a text."""
    said = _runs(text)
    return max(languages(), key=lambda language: _shared(said, _of(language)))


def shown(text: str) -> tuple[Language, ...]:
    """The languages whose examples a writer of this text sees, the nearest last: it is followed most."""
    chosen, first = nearest(text), languages()[0]
    return (first, chosen) if chosen is not first else (first,)


def _runs(text: str) -> Counter[str]:
    said = " " + " ".join(folded(text).split()) + " "
    return Counter(said[at : at + RUN] for at in range(len(said) - RUN + 1))


@cache
def _of(language: Language) -> dict[str, float]:
    """How often each run is found in a block, as a share."""
    found = _runs(language.text)
    # What stands in every block, such as names and roles, tells none from another.
    whole = sum(found.values())
    return {run: count / whole for run, count in found.items()}


def _shared(said: Counter[str], block: dict[str, float]) -> float:
    """The mean share of a text's runs in a block: how likely the block makes the text, but for the logarithm."""
    return sum(count * min(block.get(run, 0.0), 0.002) for run, count in said.items()) / max(1, sum(said.values()))
