"""Facts out of messages: a writer reads a window of them at a time and lists what they tell.

A window is read with the messages before it, and once more for those of its messages that left nothing: small writers
skip. What comes back is text, a fact a line; `checks` decide what of it is kept.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ...util.messages import Message
from .checks import verbatim
from .languages import shown
from .related import Related, terms
from .turns import Turn
from .writers import FactWriter

WINDOW = 12  # messages that are read at a time
BEFORE = 4  # messages shown before them, for what "it" and "yes" stand for
TELLING = 3  # words of a message that may tell something by itself
LONGEST = 600  # tokens of a list
NOTHING = "-"
LINE = re.compile(r"^\W*\[?(\d+)\]?[\s:.)-]+(.+)$")


@dataclass(frozen=True)
class Written:
    """A sentence as it was written, and the turn that it names as its source."""

    text: str
    turn: Turn


def written_facts(
    turns: Sequence[Turn],
    writer: FactWriter,
    progress: Callable[[int, int], None] = lambda done, total: None,
    window: int = WINDOW,
    since: int = 0,
) -> list[Written]:
    """Everything that the writer lists, in the order of the messages; each message is asked about at most twice.

    since : the first turn that is asked about; those before it are only shown.
    """
    windows = [turns[start : start + window] for start in range(since, len(turns), window)]
    progress(0, len(windows))
    found = _listed(windows, turns, writer, again=False)
    progress(len(windows), len(windows))
    left = _left_over(windows, turns, found)
    if left:
        found += _listed(left, turns, writer, again=True)
    return sorted(dict.fromkeys(found), key=lambda fact: fact.turn.place)


def _left_over(
    windows: Sequence[Sequence[Turn]], turns: Sequence[Turn], found: Sequence[Written]
) -> list[Sequence[Turn]]:
    """Of every window the messages without a fact; a word or two tell something in answer to a question alone."""
    told = {fact.turn.place for fact in found}
    replies = {turn.place for before, turn in itertools.pairwise(turns) if before.asks}
    left = [
        [t for t in window if t.place not in told and (t.place in replies or len(terms(t.text)) >= TELLING)]
        for window in windows
    ]
    return [window for window in left if window]


def _listed(
    windows: Sequence[Sequence[Turn]], turns: Sequence[Turn], writer: FactWriter, *, again: bool
) -> list[Written]:
    prompts = [prompt(window, _before(window, turns), again=again) for window in windows]
    longest = max(map(_size, windows), default=0)
    answers = writer.complete(prompts, longest)
    return [fact for window, answer in zip(windows, answers) for fact in read(answer, window)]


def _size(window: Sequence[Turn]) -> int:
    """Tokens that the list of a window may have: some for each message, and what it says about once and a half."""
    return min(LONGEST, 16 * len(window) + sum(len(turn.text) for turn in window) // 2)


def _before(window: Sequence[Turn], turns: Sequence[Turn]) -> Sequence[Turn]:
    first = turns.index(window[0])
    return turns[max(0, first - BEFORE) : first]


def prompt(window: Sequence[Turn], before: Sequence[Turn] = (), *, again: bool = False) -> list[Message]:
    """What the writer is asked about the messages of a window, numbered from 1."""
    asked = _asked()
    said = "\n".join(f"[{number}] {turn.said_by}: {turn.dated}" for number, turn in enumerate(window, 1))
    earlier = "\n".join(f"{turn.said_by}: {turn.dated}" for turn in before)
    parts = [f"Before:\n{earlier}\n" if before else "", asked["again"] + "\n" if again else "", said]
    messages = [{"role": "system", "content": asked["instruction"].strip()}]
    for language in shown("\n".join(turn.text for turn in window)):
        messages += _pair(language.talk, language.facts)
    return [*messages, {"role": "user", "content": "\n".join(filter(None, parts))}]


def read(answer: str, window: Sequence[Turn]) -> Iterator[Written]:
    """The sentences of a list, each with its message. Lines without a number are left out."""
    related = Related([f"{turn.said_by} {turn.dated}" for turn in window])
    for line in answer.splitlines():
        match = LINE.match(line.strip())
        if match is None or match[2].strip() == NOTHING:
            continue
        text, number = match[2].strip(), int(match[1]) - 1
        place = _source(text, number if 0 <= number < len(window) else None, related)
        if place is not None:
            yield Written(text, window[place])


def _source(text: str, number: int | None, related: Related) -> int | None:
    """The message that a sentence is of, since small writers miscount: the one whose number it has, unless another has
    more of its names, numbers and codes; or has all its words, and that one does not.
    """
    best = next(iter(related.to(text, 1)), None)
    if number is None or best is None:
        return best if number is None else number
    names = {term for word in verbatim(text) for term in terms(word)}
    named, better = names & related.terms[number], names & related.terms[best]
    if len(better) > len(named):
        return best
    own = terms(text) & related.terms[number] - related.terms[best]
    return number if len(named) > len(better) or own else best


def _pair(asked: str, answered: str) -> list[Message]:
    return [{"role": "user", "content": asked.strip()}, {"role": "assistant", "content": answered.strip()}]


@cache
def _asked() -> dict[str, Any]:
    return tomllib.loads((resources.files(__package__) / "facts.toml").read_text())
