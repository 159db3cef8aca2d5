"""Other names for what a question is about: "my wife" for "Solveig", "Otto" for "he".

A user asks by any of them, so the study does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .words import FUNCTION_WORDS

MOST_WORDS = 3  # of a relation: "my next-door neighbour"
SOMEBODY = re.compile(r"\b(he|she|him|her|his)\b", re.IGNORECASE)
OF_SOMETHING = re.compile(r"\b(its|their)\b", re.IGNORECASE)
SUBJECT = re.compile(r"\b(?:[Mm]y|[Oo]ur) [a-z]+\b|\b[A-Z]\w+\b")
OF_MINE = re.compile(r" of (?:my|our) ")
YOURS = re.compile(r"\b([Yy])our\b")

NEARER = re.compile(r"\b([Mm]y|[Oo]ur) ([a-z-]+) (?:to|from|in|at|for|on|with) (?:the )?[A-Z]\w+\b")

Pair = tuple[str, str]  # a relation and the name that goes with it


def pairs(statements: Sequence[str], patterns: Sequence[str]) -> list[Pair]:
    """Every ("my wife", "Solveig") that statements name, by patterns of two groups: the relation and the name."""
    found = [match.groups() for text in statements for pattern in patterns for match in re.finditer(pattern, text)]
    named = [(relation[:1].lower() + relation[1:], name) for relation, name in found]
    return [
        (relation, name)
        for relation, name in dict.fromkeys(named)
        if len(said := OF_MINE.sub(" ", relation).lower().split()) <= 1 + MOST_WORDS
        and not FUNCTION_WORDS & set(said[1:])
    ]


def by_user(answer: str) -> str:
    """An answer to the user in the user's own words: "Your wife is Solveig." as "My wife is Solveig."."""
    return YOURS.sub(lambda match: "My" if match[1] == "Y" else "my", answer)


def unchanged(before: Sequence[Pair], now: Sequence[Pair]) -> list[Pair]:
    """Earlier pairs, without those of a relation that goes with a name `now`, which may be another."""
    anew = {relation for relation, _ in now}
    return [pair for pair in before if pair[0] not in anew]


def renamed(question: str, known: Sequence[Pair]) -> list[str]:
    """The question by the other name of whatever it names."""
    twins = []
    for relation, name in known:
        by_relation, by_name = (re.compile(rf"\b{re.escape(said)}\b", re.IGNORECASE) for said in (relation, name))
        alone = re.sub(rf"\b{re.escape(relation)},? {re.escape(name)}\b", relation, question, flags=re.IGNORECASE)
        if alone != question:
            twins.append(alone)
        if by_name.search(alone):
            twins.append(by_name.sub(relation, alone))
        elif by_relation.search(alone):
            twins.append(by_relation.sub(name, alone))
    return twins


def without_qualifier(question: str) -> str:
    """The question without what tells one thing of mine from another: "my train" for "my train to Porto"."""
    return NEARER.sub(r"\1 \2", question)


def resolved(question: str, before: str) -> list[str]:
    """The question with a pronoun replaced by what the sentence before was about; as it is where that is unknown.

    "Her" may be anybody before, but most often it is whom the last sentence began with.
    """
    last = re.split(r"(?<=[.!?])\s+", before.strip())[-1]
    subjects = [found for found in SUBJECT.findall(last) if found.lower() not in FUNCTION_WORDS]
    somebody, something = SOMEBODY.search(question), OF_SOMETHING.search(question)
    if somebody and subjects:
        subject = re.sub(r"^(My|Our)\b", lambda match: match.group().lower(), subjects[0])
        owned = somebody.group().lower() in ("his", "her")
        return [_replaced(question, somebody, f"{subject}'s" if owned else subject)]
    if something and before:
        return [_replaced(question, something, owner) for owner in ("the", "my")]
    return [question]


def _replaced(question: str, match: re.Match, by: str) -> str:
    return question[: match.start()] + by + question[match.end() :]
