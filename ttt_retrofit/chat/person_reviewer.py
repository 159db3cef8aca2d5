"""`PersonReviewer`: a reviewer that waits for a person while a conversation goes on."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..errors import Cancelled
from ..memory.facts import Fact


class PersonReviewer:
    """Facts that wait for an answer, as `ChatSession(review=...)`. The thread that consolidates waits for it, too.

    Attributes
    ----------
    facts : those that wait now.
    """

    def __init__(self) -> None:
        self._answered = threading.Event()
        self._kept: Sequence[Fact] | None = None
        self._closed = False
        self.facts: list[Fact] = []

    def __call__(self, facts: list[Fact]) -> Sequence[Fact]:
        self._answered.clear()
        self._kept = None
        if self._closed:
            raise Cancelled("Nobody reviews any more. Model and memory are as they were.")
        self.facts = facts
        self._answered.wait()
        self.facts = []
        if self._kept is None:
            raise Cancelled("The facts were not reviewed. Model and memory are as they were.")
        return self._kept

    def keep(self, facts: Sequence[Fact]) -> None:
        """The answer: those of `facts` that are kept, changed or not."""
        self._kept = facts
        self._answered.set()

    def dismiss(self, *, close: bool = False) -> None:
        """Let the thread go on: it ends, and the facts are asked for again when it begins anew."""
        self._closed |= close
        self._answered.set()
