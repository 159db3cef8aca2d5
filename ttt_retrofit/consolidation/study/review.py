"""What of a conversation may be kept: a policy and a person decide on its facts before anything is studied.

A policy in words is read by whoever writes the facts, and once more with each fact that was found. What is refused is
counted, and nothing of it is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...errors import InputError, quoted
from ...memory.facts import Fact
from ...util.messages import Message
from ..facts.turns import Turn
from ..facts.verdicts import Judge
from ..facts.writers import FactWriter
from .statements import Statement

Policy = str | Callable[[Fact], bool]
Reviewer = Callable[[list[Fact]], Sequence[Fact]]

INSTRUCTION = "- Keep to this policy of the user, and leave out what it forbids: "


@dataclass(frozen=True)
class Review:
    """Who decides what is kept.

    Attributes
    ----------
    policy : what is worth keeping and what never, in words; or a function that tells of a fact whether it may be kept.
    reviewer : is given the facts that the policy allows, and returns those to keep, changed or not.
    """

    policy: Policy | None = None
    reviewer: Reviewer | None = None

    def __post_init__(self) -> None:
        if not (self.policy is None or callable(self.policy) or (isinstance(self.policy, str) and self.policy.strip())):
            raise InputError(f"policy is {quoted(self.policy)}; expected words, or a function of a fact.")
        if self.reviewer is not None and not callable(self.reviewer):
            raise InputError(f"review is {quoted(self.reviewer)}; expected a function of a list of facts.")

    @property
    def name(self) -> str:
        """Tells it from others: a study under another policy is not gone on with."""
        policy = self.policy if isinstance(self.policy, str | None) else _name(self.policy)
        return "" if self == EVERYTHING else f"{policy} {_name(self.reviewer)}"

    def instructed(self, writer: FactWriter) -> FactWriter:
        """The writer of the facts, told of the policy."""
        return _Instructed(writer, self.policy) if isinstance(self.policy, str) else writer

    def kept(
        self, statements: Sequence[Statement], turns: Sequence[Turn], source: str, writer: FactWriter
    ) -> tuple[tuple[Statement, ...], int]:
        """The statements that are kept, and how many were refused.

        source : sha256 of the context.

        Raises
        ------
        InputError
            When a reviewer returns something else than facts that it was given.
        """
        candidates = {statement.fact(source).id: statement for statement in statements}
        allowed = self._allowed([statement.fact(source) for statement in candidates.values()], writer)
        reviewed = allowed if self.reviewer is None else self.reviewer(list(allowed))
        kept = {fact.id: fact for fact in _checked(reviewed, {fact.id for fact in allowed})}
        refused = {candidates[name].message for name in candidates if name not in kept}
        # A message of which something was refused is not shown before others either.
        hidden = {turn.dated for turn in turns if turn.place in refused}
        found = [_as_reviewed(candidates[name], kept[name], source, hidden) for name in candidates if name in kept]
        return tuple(found), len(candidates) - len(found)

    def _allowed(self, facts: list[Fact], writer: FactWriter) -> list[Fact]:
        if self.policy is None or not facts:
            return facts
        if callable(self.policy):
            return [fact for fact in facts if self.policy(fact)]
        allowed = Judge(writer).allowed(" ".join(self.policy.split()), [fact.text for fact in facts])
        return [fact for fact, yes in zip(facts, allowed) if yes]


EVERYTHING = Review()  # is kept


def _as_reviewed(statement: Statement, fact: Fact, source: str, hidden: set[str]) -> Statement:
    """A changed text is understood alone, as a fact is."""
    if fact.text != statement.fact(source).text:
        return replace(statement, text=fact.text.strip(), before=(), said_at=fact.said_at)
    before = tuple(pair for pair in statement.before if pair[1] not in hidden)
    return replace(statement, before=before, said_at=fact.said_at)


def _checked(reviewed: Any, allowed: set[str]) -> Sequence[Fact]:
    facts = list(reviewed) if isinstance(reviewed, Sequence) else [reviewed]
    for fact in facts:
        if not isinstance(fact, Fact) or fact.id not in allowed or not fact.text.strip():
            raise InputError(
                f"review returned {quoted(fact)}; expected facts out of those that it was given, with their ids. Their "
                "texts may be changed: dataclasses.replace(fact, text='...')."
            )
    return facts


def _name(function: Any) -> str:
    return "" if function is None else getattr(function, "__qualname__", type(function).__name__)


@dataclass(frozen=True)
class _Instructed:
    """A writer whose instruction ends with a policy."""

    writer: FactWriter
    policy: str

    @property
    def name(self) -> str:
        return self.writer.name

    def complete(self, prompts: Sequence[Sequence[Message]], longest: int, seed: int = 0) -> list[str]:
        added = f"\n{INSTRUCTION}{' '.join(self.policy.split())}"
        told = [
            [{**first, "content": first["content"] + added} if first["role"] == "system" else first, *rest]
            for first, *rest in prompts
        ]
        return self.writer.complete(told, longest, seed)
