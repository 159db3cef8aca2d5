"""Which facts a lesson depends on: the one that it asks about, those that it quotes, and those whose names it tells.

When a fact is deleted, so are the lessons that depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..memory.facts import Fact
from .facts.checks import names_in, words_of
from .facts.languages import nearest
from .facts.related import common, terms


@dataclass(frozen=True)
class Dependence:
    """Facts by what they tell.

    Attributes
    ----------
    own : of the context that is studied, by the number of the statement.
    earlier : of the memory that it adds to.
    outdated : statements, each with the later one that changes it. What is asked of that may tell the earlier one.
    """

    own: Sequence[Fact]
    earlier: Sequence[Fact] = ()
    outdated: Mapping[int, int] = field(default_factory=dict)

    def of(self, statements: Iterable[int], *texts: str) -> tuple[str, ...]:
        """Ids of what a lesson depends on that is about some statements, and tells these texts."""
        numbers = [number for number in statements if 0 <= number < len(self.own)]
        about = [self.own[number] for number in numbers]
        told = names_in(texts).difference(*(words_of(fact.text) for fact in about))
        lent = (fact_id for name in sorted(told) for fact_id in self._by_word.get(name, ()))
        said = terms(" ".join(texts)).difference(*(terms(fact.text) for fact in about))
        before = (self.own[old] for old, later in self.outdated.items() if later in numbers)
        changed = (fact.id for fact in before if said & terms(fact.text) - common(nearest(fact.text)))
        return tuple(dict.fromkeys([*(fact.id for fact in about), *lent, *changed]))

    @cached_property
    def _by_word(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for fact in (*self.own, *self.earlier):
            for word in sorted(words_of(fact.text)):
                found.setdefault(word, []).append(fact.id)
        return found
