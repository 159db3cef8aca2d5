"""Admission control: what one request may cost, and how many requests may wait, in total and for each user."""

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
    max_changes: int = 32  # changes of one user's facts that wait

    @property
    def max_text(self) -> int:
        """Bytes of the messages of one request."""
        return self.max_prompt * BYTES_PER_TOKEN


class Overloaded(Exception):
    """The limit of waiting and answered requests is reached."""


class Slot:
    """The admission of one request. It is released when the answer has ended, for whatever reason."""

    def __init__(self, admission: AdmissionControl, identity: str | None) -> None:
        self._admission, self._identity, self._held = admission, identity, True

    def release(self) -> None:
        """Give the slot back. A second call does nothing."""
        with self._admission.lock:
            if self._held:
                self._held = False
                self._admission.give_back(self._identity)


class AdmissionControl:
    """The slots of one server. Safe to use from several threads."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.lock = limits, threading.Lock()
        self._in_use: Counter[str | None] = Counter()  # slots by user

    def admit(self, identity: str | None) -> Slot:
        """A slot for a request of a user; None is a request without a user.

        Raises
        ------
        Overloaded
            The message says whether the server or the user has too many requests.
        """
        with self.lock:
            if self._in_use.total() >= self.limits.max_concurrent:
                raise Overloaded(
                    f"{self._in_use.total()} requests are waiting or being answered already, as many as may be."
                )
            if identity is not None and self._in_use[identity] >= self.limits.max_per_user:
                raise Overloaded(
                    f"{self._in_use[identity]} requests of this user are waiting or being answered already, as many as "
                    "one user may have."
                )
            self._in_use[identity] += 1
            return Slot(self, identity)

    def give_back(self, identity: str | None) -> None:
        """Called by a `Slot`, under the lock."""
        self._in_use[identity] -= 1
        if not self._in_use[identity]:
            del self._in_use[identity]
