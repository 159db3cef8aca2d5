"""Questions that several statements answer: "Where does Alex live?" of two people, "What is my brother called?" of two.

All of them are told then; what cannot be told apart is not asked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from ..facts.checks import folded
from ..writer import Answer
from .answers import Question, given_by
from .apart import apart
from .asking import Asking
from .retelling import told_back
from .statements import Statement

MOST = 3  # statements that are told together


def told_together(
    questions: Sequence[Question],
    others: Mapping[int, Collection[int]],
    statements: Sequence[Statement],
    asking: Asking,
    known: Mapping[int, Answer],
) -> Iterator[Question]:
    """The questions, those that other statements answer, too, with all that they tell, once; or left out.

    Parameters
    ----------
    others : the other statements, by the number of the question.
    known : statements that are told back already.
    """
    together = {}
    for number, some in others.items():
        own, value = questions[number].statement, questions[number].value
        if len(some) < MOST and all(apart(own, value, other, statements) for other in some):
            together[number] = sorted({own, *some})
    new = sorted({n for some in together.values() for n in some} - {*known})
    told = {
        **known,
        **{new[place]: answer for place, answer in told_back([statements[n] for n in new], asking).items()},
    }
    asked = set()
    for number, question in enumerate(questions):
        some = together.get(number, ())
        if number not in others:
            yield question
        elif some and all(n in told for n in some) and folded(question.text) not in asked:
            asked.add(folded(question.text))
            said = " ".join(asking.text(told[n]) for n in some)
            value = given_by(said, question.text, " ".join(statements[n].source for n in some))
            yield replace(question, value=value, answer=Answer.certain(asking.formatter.said(said)), held_out=False)
