"""The facts of one user as tools that a language model calls: typed, documented, and independent of the protocol."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from pydantic import Field

from ..chat.all_facts import Shown, is_shown
from ..chat.fact_change import FactChange
from .fact_access import Changed, Facts, Fields

Id = Annotated[str, Field(description="The id of a fact, as `list` and `search` give it.")]
Text = Annotated[str, Field(description="One sentence of the user in their language, such as 'My dog is called Bolt.'")]
Day = Annotated[str | None, Field(description="Since when it is so, as 2026-03-09. Today when not given.")]
Purge = Annotated[bool, Field(description="Delete the earlier versions, too, which still hold it. No way back then.")]
Most = Annotated[int, Field(description="How many facts to return at most.", ge=1, le=1000)]


@dataclass(frozen=True)
class KnownFact:
    """A fact as tools return it; see `Fact` for the fields."""

    id: str
    text: str
    said_by: str
    said_at: str | None
    status: str
    learned: bool | None

    @classmethod
    def of(cls, fact: Fields) -> KnownFact:
        return cls(**{field.name: fact[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Found:
    """Facts, and how many were found."""

    facts: list[KnownFact]
    total: int


class FactTools:
    """The tools of one user, which is fixed: no tool takes another one."""

    def __init__(self, facts: Facts, user: str | None = None) -> None:
        self._facts, self._user = facts, user

    def search(
        self,
        query: Annotated[str, Field(description="Words to look for, or a question.")],
        limit: Most = 10,
    ) -> Found:
        """Search what is remembered of the user by words; the best facts come first. Reads only."""
        found = self._facts.search(self._user, query, limit)
        return Found([KnownFact.of(fact) for fact in found], len(found))

    def list(
        self,
        status: Annotated[
            Shown,
            Field(
                description="'known' are those that hold: 'current' ones are memory, 'waiting' ones become it later. "
                "Others were 'superseded' by a later fact, or 'retracted' by the user."
            ),
        ] = "known",
        limit: Most = 100,
        offset: Annotated[int, Field(description="How many of the newest to pass over.", ge=0)] = 0,
    ) -> Found:
        """List what is remembered of the user, newest first. Reads only."""
        found = [KnownFact.of(fact) for fact in self._facts.facts(self._user) if is_shown(fact["status"], status)]
        return Found(found[::-1][offset : offset + limit], len(found))

    def add(self, text: Text, date: Day = None) -> Changed:
        """Remember one more fact of the user. It is learned and verified, which takes from seconds to minutes."""
        return self._facts.change(self._user, FactChange((), text, date))

    def correct(self, id: Id, text: Text, date: Day = None, purge: Purge = False) -> Changed:
        """Replace a fact by what is right. Destructive: the old sentence is deleted, and unlearned.

        Ask the user first. It takes from seconds to minutes.
        """
        return self._facts.change(self._user, FactChange((id,), text, date, purge))

    def forget(self, id: Id, purge: Purge = False) -> Changed:
        """Delete a fact. Destructive: its sentence is deleted, and what was learned of it is unlearned.

        Ask the user first. It takes from seconds to minutes.
        """
        return self._facts.change(self._user, FactChange((id,), purge=purge))
