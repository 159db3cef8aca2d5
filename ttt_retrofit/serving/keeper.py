"""`Keeper`: the thread that consolidates the messages of idle users, one at a time, while others are answered."""

from __future__ import annotations

import threading

from transformers.utils import logging

from .users import User, Users

logger = logging.get_logger(__name__)

LOOK = 0.2  # seconds between two looks


class Keeper:
    """Starts with `start`, and ends with `stop`.

    Parameters
    ----------
    idle : seconds without a request after which a user's words are consolidated.
    """

    def __init__(self, users: Users, idle: float) -> None:
        self.users, self.idle = users, idle
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ttt-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop a running consolidation. It continues when the server starts again."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(LOOK):
            try:
                user = self.users.next_silent(self.idle)
                if user is not None:
                    self._keep(user)
            except Exception:  # of one user: the others' words still become memory
                logger.exception("A consolidation failed.")

    def _keep(self, user: User) -> None:
        if not user.begin():
            return
        while user.working():
            if self._stopped.wait(LOOK):
                user.close()
                return
            report = user.settle()
            if report is not None:
                logger.info("%s: %s", user.session.directory.name, report)
