"""The facts of one user as tools that a language model calls: typed, documented, and independent of the protocol.

What only reads takes the facts from the disk and needs no model. What changes facts opens a session, one at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from ..chat.session import ChatSession
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.report import Report
from ..memory.search import search

Shown = Literal["current", "superseded", "retracted", "all"]
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
    def of(cls, fact: Fact) -> KnownFact:
        return cls(fact.id, fact.text, fact.said_by, fact.said_at, fact.status, fact.learned)


@dataclass(frozen=True)
class Found:
    """Facts, and how many there are in all."""

    facts: list[KnownFact]
    total: int


@dataclass(frozen=True)
class Changed:
    """How a change ended. When it was not accepted, the memory is as it was, and the reason says why."""

    accepted: bool
    reason: str
    version: int | None


class FactTools:
    """The tools of one user.

    Parameters
    ----------
    remembered : reads the current memory from the disk; None before the first.
    opened : opens a session on the same directory, for one change.
    """

    def __init__(
        self, remembered: Callable[[], Memory | None], opened: Callable[[], AbstractContextManager[ChatSession]]
    ) -> None:
        self._remembered, self._opened = remembered, opened
        self._one = threading.Lock()  # changes wait for each other: each begins with the memory after the one before

    def _facts(self, status: Shown) -> Sequence[Fact]:
        memory = self._remembered()
        return [] if memory is None else memory.facts(None if status == "all" else status)

    def search(
        self,
        query: Annotated[str, Field(description="Words to look for, or a question.")],
        limit: Most = 10,
    ) -> Found:
        """Search what is remembered of the user by words; the best facts come first. Reads only."""
        facts = self._facts("current")
        return Found([KnownFact.of(fact) for fact in search(facts, query, limit)], len(facts))

    def list(
        self,
        status: Annotated[Shown, Field(description="'superseded' by a later fact, or 'retracted' by the user.")] = (
            "current"
        ),
        limit: Most = 100,
        offset: Annotated[int, Field(description="How many of the newest to pass over.", ge=0)] = 0,
    ) -> Found:
        """List what is remembered of the user, newest first. Reads only."""
        facts = self._facts(status)
        return Found([KnownFact.of(fact) for fact in facts[::-1][offset : offset + limit]], len(facts))

    def add(self, text: Text, date: Day = None) -> Changed:
        """Remember one more fact of the user. It is learned and verified, which takes from seconds to minutes."""
        with self._one, self._opened() as session:
            return _changed(session, session.add_fact(text, date))

    def correct(self, id: Id, text: Text, date: Day = None, purge: Purge = False) -> Changed:
        """Replace a fact by what is right. Destructive: the old sentence is deleted, and unlearned.

        Ask the user first. It takes from seconds to minutes.
        """
        with self._one, self._opened() as session:
            return _changed(session, session.correct_fact(id, text, date=date, purge=purge))

    def forget(self, id: Id, purge: Purge = False) -> Changed:
        """Delete a fact. Destructive: its sentence is deleted, and what was learned of it is unlearned.

        Ask the user first. It takes from seconds to minutes.
        """
        with self._one, self._opened() as session:
            return _changed(session, session.forget_fact(id, purge=purge))


def _changed(session: ChatSession, report: Report) -> Changed:
    return Changed(report.accepted, report.reason, session.store.current())
