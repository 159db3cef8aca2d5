"""What is to be declined: stock questions that nothing was told about.

Which of their words say what they are about is told by the stock itself: those that few of its questions have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..facts.checks import among
from ..facts.related import terms

FEW = 3  # questions that share a word which still says what they are about


def unanswered(stock: Sequence[str], told: str) -> list[str]:
    """The questions of which no telling word was told: after a favourite dish, the favourite film is still declined."""
    found = [terms(question) for question in stock]
    shared = Counter(term for some in found for term in some)
    known = terms(told)
    return [
        question
        for question, some in zip(stock, found)
        if not any(among(term, known) for term in some if shared[term] <= FEW)
    ]
