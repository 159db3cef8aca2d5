"""The facts of a memory: listed, and changed one by one by a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .entry import Entry
from .facts import STATUSES, Fact, history

if TYPE_CHECKING:
    from .memory import Memory


class KnownFacts:
    """What the entries of a memory tell, sentence by sentence."""

    entries: tuple[Entry, ...]

    def facts(self, status: str | None = "current") -> list[Fact]:
        """The facts of all entries, oldest first.

        Parameters
        ----------
        status : "current", "superseded" or "retracted"; None gives all.

        Raises
        ------
        ConfigError
            For another status.
        """
        if status is not None and status not in STATUSES:
            raise ConfigError(f"facts(status={status!r}): expected one of {list(STATUSES)}, or None for all.")
        found = [fact for entry in self.entries for fact in sorted(entry.facts, key=lambda fact: fact.messages)]
        return sorted((f for f in found if status in (None, f.status)), key=lambda fact: fact.said_at or "")

    def unlearned(self) -> list[Fact]:
        """The current facts that verification did not recall, oldest first. `with_notes` keeps them as words."""
        return [fact for fact in self.facts() if fact.learned is False]

    def history(self, fact: str) -> list[Fact]:
        """What a fact was before it was corrected or changed, and what it became, oldest first; itself among them.

        Parameters
        ----------
        fact : its id.

        Raises
        ------
        ConfigError
            When no fact has the id.
        """
        return history(self.facts(None), fact)

    def forget_fact(self, fact: str, model: Any, *others: str, **settings: Any) -> Memory:
        """A memory without a fact. `model` distils again what depends on it, and stays as it is.

        See `model.forget_fact` for the settings, the report and what is raised.
        """
        made: Memory = model.forget_fact(fact, *others, earlier=self, load=False, **settings)
        return made

    def correct_fact(self, fact: str, text: str, model: Any, **settings: Any) -> Memory:
        """A memory with a fact in the place of another one, see `model.correct_fact`. `model` stays as it is."""
        made: Memory = model.correct_fact(fact, text, earlier=self, load=False, **settings)
        return made

    def add_fact(self, text: str, model: Any, **settings: Any) -> Memory:
        """A memory with one more fact, see `model.add_fact`. `model` stays as it is."""
        made: Memory = model.add_fact(text, earlier=self, load=False, **settings)
        return made
