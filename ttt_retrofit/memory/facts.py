"""Facts: what a memory holds, sentence by sentence, as a person sees, corrects and deletes it.

Weights are how facts are recalled; facts are what they are made from. Each stands in the words and the language of its
speaker, and is understood alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import ConfigError

Status = Literal["current", "superseded", "retracted", "waiting"]
STATUSES = ("current", "superseded", "retracted")  # of a memory
Provenance = Literal["said", "added"]
PROVENANCES: tuple[str, ...] = get_args(Provenance)


@dataclass(frozen=True)
class Fact:
    """One thing that was said.

    Attributes
    ----------
    id : names it within a store; the same sentence of the same message has the same id.
    text : a whole sentence that is understood without the conversation, in its language. Empty where it was corrected:
        nothing of it is kept.
    said_by : "user", "assistant", "tool", or the name of a speaker who is named.
    said_at : day of the message, ISO 8601 ("2026-03-09"), None where nobody knows.
    messages : places in the conversation of the messages that it was taken from, from 0.
    source : sha256 of the conversation.
    status : "current"; "superseded" by a later fact; "retracted" when it was taken back; "waiting" to become part of a
        memory, of a session's facts.
    superseded_by : id of the later fact.
    provenance : "said" in a conversation, or "added" by hand.
    learned : whether the weights were verified to hold it; None while nobody asked. What they do not hold stays words.
    """

    id: str
    text: str
    said_by: str
    said_at: str | None
    messages: tuple[int, ...]
    source: str
    status: Status = "current"
    superseded_by: str | None = None
    learned: bool | None = None
    provenance: Provenance = "said"

    @classmethod
    def of(cls, text: str, said_by: str, said_at: str | None, messages: Sequence[int], source: str) -> Fact:
        """A new fact with its id."""
        named = "\n".join([source, *map(str, messages), text])
        return cls(hashlib.sha256(named.encode()).hexdigest()[:12], text, said_by, said_at, tuple(messages), source)

    def to_dict(self) -> dict[str, Any]:
        """A dictionary of JSON values; without the provenance of what was said, as earlier versions wrote it."""
        values = dataclasses.asdict(self) | {"messages": list(self.messages)}
        if self.provenance == "said":
            del values["provenance"]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Fact:
        """Raises `ValueError` for what `to_dict` would not have written."""
        fact = cls(**{**values, "messages": tuple(values["messages"])})
        if fact.status not in STATUSES:
            raise ValueError(f"a fact has status {fact.status!r}, expected one of {list(STATUSES)}")
        if fact.provenance not in PROVENANCES:
            raise ValueError(f"a fact was {fact.provenance!r}, expected one of {list(PROVENANCES)}")
        return fact

    def __str__(self) -> str:
        when = "" if self.said_at is None else f", {self.said_at}"
        marked = "" if self.status == "current" else f" [{self.status}]"
        return f"{self.text or '(deleted)'} ({self.said_by}{when}){marked}"


def without(facts: Sequence[Fact], gone: Mapping[str, Fact]) -> tuple[Fact, ...]:
    """The facts, of which none is superseded by one that is `gone`, by id.

    What is current again is not learned: weights that were taught a later fact may say that one, and words do not.
    A fact of which nothing was kept is not current again; it goes, too.
    """
    kept = []
    for fact in facts:
        later = fact.superseded_by
        for _ in gone:  # a chain has at most as many
            later = gone[later].superseded_by if later is not None and later in gone else later
        if later is None and fact.superseded_by is not None:
            if not fact.text:
                continue
            fact = dataclasses.replace(fact, status="current", learned=False)
        kept.append(dataclasses.replace(fact, superseded_by=later))
    return tuple(kept)


def history(facts: Sequence[Fact], name: str) -> list[Fact]:
    """What a fact was before it was corrected or changed, and what it became, oldest first; itself among them.

    Raises
    ------
    ConfigError
        When no fact has the id.
    """
    known = {fact.id: fact for fact in facts}
    if name not in known:
        raise ConfigError(f"No fact has the id {name!r}. memory.facts(None) lists them all.")
    found = {name}
    while True:
        more = {fact.id for fact in known.values() if fact.superseded_by in found}
        more |= {later for one in found if (later := known[one].superseded_by) is not None and later in known}
        if more <= found:
            break
        found |= more
    return sorted((known[one] for one in found), key=lambda fact: _steps(fact, known), reverse=True)


def _steps(fact: Fact, known: Mapping[str, Fact]) -> int:
    """How many later facts superseded it, one after the other."""
    seen = {fact.id}
    while (later := known.get(fact.superseded_by or "")) is not None and later.id not in seen:
        fact = later
        seen.add(fact.id)
    return len(seen)
