"""`FactChange`: a change of what a session remembers, as one value that can wait and be written down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..memory.facts import Fact
from .all_facts import KNOWN


@dataclass(frozen=True)
class FactChange:
    """A text is to be known in the place of facts.

    Attributes
    ----------
    ids : of the facts that are deleted. With a text at most one.
    text : a sentence of the user; None where nothing takes their place.
    date : since when the text holds, ISO 8601; None for the day on which it is done.
    purge : whether earlier versions, which still hold the facts, are deleted.
    """

    ids: tuple[str, ...] = ()
    text: str | None = None
    date: str | None = None
    purge: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values."""
        return {"ids": list(self.ids), "text": self.text, "date": self.date, "purge": self.purge}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FactChange:
        """What `to_dict` wrote."""
        return cls(tuple(values["ids"]), values["text"], values["date"], values["purge"])

    def made(self, facts: Sequence[Fact]) -> str | None:
        """The id of the fact with its text. facts : all of the user, after the change."""
        said = None if self.text is None else " ".join(self.text.split())
        found = [fact.id for fact in facts if fact.text == said and fact.status in KNOWN]
        return found[-1] if found else None

    def holds(self, facts: Sequence[Fact]) -> bool:
        """Whether facts are as the change would have them: of a change that was killed it tells if it was done."""
        made = self.made(facts)
        known = self.text is None or made is not None
        return known and not any(fact.id in self.ids and fact.text and fact.id != made for fact in facts)
