"""Whether two statements are about different people or things, such as two who share a name or a relation."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from ..facts.checks import WORD, among, folded, names_in, words_of
from ..facts.languages import nearest
from .statements import Statement


def apart(own: int, value: Collection[str], other: int, statements: Sequence[Statement]) -> bool:
    """Whether a question that one statement answers with a value is about somebody or something else than another one.

    Either has a name, or what is the user's ("my boss"), that the other one does not have, and besides it what answers
    the question. "I live in Oslo." is not apart from "I live in Gdynia.": it takes its place.
    """
    names = names_in(statement.text for statement in statements)
    one, two = statements[own], statements[other]
    ours, theirs = _without(_who(one, names), two), _without(_who(two, names), one)
    return bool(ours.difference(value)) and len(theirs) > 1


def _who(statement: Statement, names: Collection[str]) -> set[str]:
    """Names, and the words behind those by which the speaker is meant; in a language whose nouns look like names, these
    alone.
    """
    language, words = nearest(statement.text), WORD.findall(statement.text)
    named = {folded(word) for word in words if word.isalpha()} & {*names} if language.names else set()
    return named | {folded(word) for before, word in itertools.pairwise(words) if language.speaks(before)}


def _without(words: Collection[str], other: Statement) -> set[str]:
    said = words_of(other.source)
    return {word for word in words if not among(word, said)}
