"""`IdleConsolidator`: the thread that consolidates the messages of idle users, one user at a time, and changes facts.

Changes come first: a consolidation waits for them.
"""

from __future__ import annotations

import threading

from transformers.utils import logging

from .changes import FactChanges
from .users import User, Users

logger = logging.get_logger(__name__)

POLL = 0.2  # seconds


class IdleConsolidator:
    """Starts with `start`, and ends with `stop`. The server answers other users meanwhile.

    Parameters
    ----------
    idle : seconds without a request after which a user's messages are consolidated.

    Attributes
    ----------
    changes : of facts, that users asked for.
    """

    def __init__(self, users: Users, idle: float) -> None:
        self.users, self.idle = users, idle
        self.changes = FactChanges(users)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ttt-consolidate-idle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop a running consolidation. It continues when the server starts again."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL):
            try:
                self.changes.work(self._stopped.is_set)
                user = self.users.next_idle(self.idle)
                if user is not None:
                    self._consolidate(user)
            except Exception:  # one user's failure must not end the thread
                logger.exception("A consolidation failed.")

    def _consolidate(self, user: User) -> None:
        if not user.begin():
            return
        while user.consolidating():
            if self._stopped.wait(POLL):
                user.close()
                return
            if self.changes.waiting:
                user.pause()
                self.changes.work(self._stopped.is_set)
                user.begin()  # anew where the user's own memory was changed
            report = user.settle()
            if report is not None:
                logger.info("%s: %s", user.session.directory.name, report)
