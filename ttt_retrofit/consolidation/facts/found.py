"""Facts that a question is about, best first: ranked by the words that both have, the rarer the more."""

from __future__ import annotations

from collections.abc import Sequence

from ...memory.facts import Fact
from .languages import nearest
from .related import Related, common, terms


def search(facts: Sequence[Fact], question: str) -> list[tuple[Fact, float]]:
    """The facts that share words with a question, in any language, best first; equal ones in their order.

    Returns
    -------
    Each with its score: the share of the question's words that it has, in (0, 1], weighted by how few facts have them.
    Forms of a word are one. Words such as "the" count where the question has no others.
    """
    asked = terms(question)
    wanted = asked - common(nearest(question)) or asked
    scores = Related([fact.text for fact in facts]).scores(wanted)
    return sorted(((fact, score) for fact, score in zip(facts, scores) if score), key=lambda pair: -pair[1])
