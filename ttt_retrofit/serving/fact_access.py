"""The facts of users, wherever they are: what a store of this machine and a server have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..chat.all_facts import KNOWN
from ..chat.fact_change import FactChange

Fields = dict[str, Any]


@dataclass(frozen=True)
class Changed:
    """How a change ended. When it was not accepted, the memory is as it was, and the reason says why."""

    accepted: bool
    reason: str
    fact: str | None = None
    """The id of the new fact."""


def known(facts: Sequence[Fields]) -> list[Fields]:
    """Those that hold: current ones of the memory, and those that wait to become part of it."""
    return [fact for fact in facts if fact["status"] in KNOWN]


def succession(facts: Sequence[Fields], fact: str | None) -> list[Fields]:
    """A fact and what superseded it, one after the other; empty when no fact has the id."""
    known, found = {one["id"]: one for one in facts}, list[Fields]()
    while fact in known:
        found.append(known.pop(fact))
        fact = found[-1]["superseded_by"]
    return found


class Facts(Protocol):
    """A fact is a dictionary, as `Fact.to_dict` gives it. The user None is the one whose directory a store is."""

    def facts(self, user: str | None) -> list[Fields]:
        """Of every status: those of the memory, then those that wait to become part of it. Each oldest first."""

    def search(self, user: str | None, query: str, most: int) -> list[Fields]:
        """Known ones, which are current or wait, with a "score", best first."""

    def tell(self, user: str, messages: Sequence[Fields]) -> list[Fields] | None:
        """Consolidate messages. Gives the new facts; None where that happens later."""

    def change(self, user: str | None, change: FactChange) -> Changed:
        """Change facts, verified, in seconds to minutes. Raises `TTTError` for facts that are not known."""

    def erase(self, user: str) -> None:
        """Everything of a user."""

    def users(self) -> list[str]:
        """The ids of all users."""

    def close(self) -> None:
        """End their use."""
