"""`FactChange`: a change of what a session remembers, as one value that can wait and be written down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..memory.memory import Memory


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

    def holds(self, memory: Memory | None) -> bool:
        """Whether a memory is as the change would have it: of a change that was killed it tells if it was done."""
        facts = () if memory is None else memory.facts(None)
        known = self.text is None or any(f.text == " ".join(self.text.split()) and f.status == "current" for f in facts)
        return known and not any(fact.id in self.ids and fact.text for fact in facts)
