"""Limits: what one request may cost, and how many may wait, of all users and of each."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

BYTES_PER_TOKEN = 8  # few texts have more; a longer one is refused before its tokens are counted


@dataclass(frozen=True)
class Limits:
    """What one request may cost, and how many may be made at once."""

    max_body: int = 1 << 20  # bytes
    max_prompt: int = 1 << 16  # tokens
    max_new_tokens: int = 1024  # of an answer
    max_concurrent: int = 16  # requests waiting or being answered
    max_per_user: int = 4  # the same, of one user
    max_unlearned: int = 10_000  # messages of one user that wait to be consolidated

    @property
    def max_text(self) -> int:
        """Bytes of the messages of one request."""
        return self.max_prompt * BYTES_PER_TOKEN


class Full(Exception):
    """The limit of waiting and answered requests is reached."""


class Place:
    """One request's; free again when its answer has ended, however it ended."""

    def __init__(self, places: Places, identity: str | None) -> None:
        self._places, self._identity, self._held = places, identity, True

    def free(self) -> None:
        with self._places.lock:
            if self._held:
                self._held = False
                self._places.give_back(self._identity)


class Places:
    """Of one server. Safe to use from several threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.lock = limits, threading.Lock()
        self._taken: Counter[str | None] = Counter()

    def take(self, identity: str | None) -> Place:
        """A place for a request of a user, or of nobody in particular.

        Raises
        ------
        Full
            Saying of whom too many wait.
        """
        with self.lock:
            if self._taken.total() >= self.limits.max_concurrent:
                raise Full(f"{self._taken.total()} requests are waiting or being answered already, as many as may be.")
            if identity is not None and self._taken[identity] >= self.limits.max_per_user:
                raise Full(
                    f"{self._taken[identity]} requests of this user are waiting or being answered already, as many as "
                    "one user may have."
                )
            self._taken[identity] += 1
            return Place(self, identity)

    def give_back(self, identity: str | None) -> None:
        self._taken[identity] -= 1
        if not self._taken[identity]:
            del self._taken[identity]
