"""All facts of a user: those of the memory, and those that wait to become part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from ..errors import InputError
from ..memory.facts import Fact
from ..memory.memory import Memory

Shown = Literal["known", "current", "waiting", "superseded", "retracted", "all"]
SHOWN: tuple[str, ...] = get_args(Shown)
KNOWN = ("current", "waiting")  # of a memory, and not part of it yet


def all_facts(memory: Memory | None, waiting: Sequence[Fact], ended: Mapping[str, str]) -> list[Fact]:
    """Those of a memory, then those that wait, with the status "waiting"; each oldest first.

    Parameters
    ----------
    waiting : as `Waiting.facts` gives them.
    ended : of facts that no longer hold the id of the waiting one that says so.
    """
    found = [
        dataclasses.replace(fact, status="superseded", superseded_by=ended[fact.id])
        if fact.id in ended and fact.status == "current"
        else fact
        for fact in ([] if memory is None else memory.facts(None))
    ]
    known = {fact.id for fact in found}
    return found + [
        dataclasses.replace(fact, status="waiting") if fact.status == "current" else fact
        for fact in waiting
        if fact.id not in known
    ]


def shown(facts: Sequence[Fact], status: str) -> list[Fact]:
    """The facts of a status; "known" are those that hold, of the memory and waiting ones.

    Raises
    ------
    InputError
        For another status.
    """
    if status not in SHOWN:
        raise InputError(f"status is {status!r}; expected one of {list(SHOWN)}.")
    return [fact for fact in facts if is_shown(fact.status, status)]


def is_shown(status: str, asked: str) -> bool:
    """Whether a fact of a status is one of those that are asked for."""
    return asked in ("all", status) or (asked == "known" and status in KNOWN)
