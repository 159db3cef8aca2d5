"""What was said, told back: "You live in Graz." for "I live in Graz."

It answers whatever is asked about a statement, and cannot say what was not told. A small writer mixes up who and what
where it answers freely ("You come from Trieste." for a mother who does), but tells back one sentence well.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...util.messages import exchanges
from ..facts.checks import among, caseless, missing
from ..facts.related import common, terms
from ..facts.turns import ASKS, USER
from ..writer import Answer
from .asking import Asked, Asking
from .parts import without_opening
from .statements import Statement


def told_back(statements: Sequence[Statement], asking: Asking) -> dict[int, Answer]:
    """The answer for each statement of which one was found; what others than the user said is told as it stands, and
    what asks is not told at all.
    """
    found = {n: as_it_stands(s, asking) for n, s in enumerate(statements) if s.said_by != USER}
    for texts in (_whole, _without_opening):
        left = {n: texts(s) for n, s in enumerate(statements) if n not in found and not s.text.endswith(ASKS)}
        some = {n: text for n, text in left.items() if text}
        for number, answer in zip(some, asking.answers([_asked(text, asking) for text in some.values()])):
            if tells(asking.text(answer), statements[number], asking):
                found[number] = Answer.certain(answer.ids)  # what else it might begin with is learned no further
    return found


def _whole(statement: Statement) -> str:
    return statement.understood


def _without_opening(statement: Statement) -> str:
    """Empty where it has none."""
    rest = without_opening(statement.text)
    return rest[:1].upper() + rest[1:] if rest != statement.text else ""


def _asked(text: str, asking: Asking) -> Asked:
    return Asked(text, tuple(exchanges(asking.language.retold)), of_user=True)


def tells(told: str, statement: Statement, asking: Asking) -> bool:
    """Whether it has all the words of a statement that tell something, but for an opening such as "By the way,"; and
    names nothing else.
    """
    language = asking.language
    own = terms(without_opening(statement.text)) - common(language) - language.first_person
    said = terms(told)
    kept = all(among(term, said) for term in own if not caseless(term))
    strange = bool(caseless(told)) and not caseless(statement.source)  # another script
    return bool(told) and kept and own & said != set() and not strange and not missing(told, [statement.source])


def as_it_stands(statement: Statement, asking: Asking) -> Answer:
    named = statement.said_by not in ("Assistant", "Tool")
    return Answer.certain(asking.formatter.said(f"{statement.said_by}: {statement.text}" if named else statement.text))
