"""`IdleConsolidator`: the thread that consolidates the messages of idle users, one user at a time, and changes facts.

Changes come first. Then the writer reads new turns for facts, as soon as no request is being answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from transformers.utils import logging

from .changes import FactChanges
from .user import User
from .users import Users

logger = logging.get_logger(__name__)

POLL = 0.2  # seconds
MAX_WAIT = 60.0  # seconds of answers to others after which turns are read all the same: consolidation waits for that


class IdleConsolidator:
    """Starts with `start`, and ends with `stop`. The server answers other users meanwhile.

    Parameters
    ----------
    idle : seconds without a request after which a user's messages are consolidated.
    busy : whether a request is being answered. Turns are not read meanwhile.

    Attributes
    ----------
    changes : of facts, that users asked for.
    """

    def __init__(self, users: Users, idle: float, busy: Callable[[], bool] = lambda: False) -> None:
        self.users, self.idle, self.busy = users, idle, busy
        self.changes = FactChanges(users)
        self._reading: User | None = None  # whose turns are being read
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ttt-consolidate-idle", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop a running consolidation. It continues when the server starts again."""
        self._stopped.set()
        self._thread.join()

    def interrupt(self) -> None:
        """A request has come: whoever reads turns waits, within a token, until nothing is being answered."""
        user = self._reading
        if user is not None:
            user.pause()

    def _run(self) -> None:
        while not self._stopped.wait(POLL):
            try:
                self.changes.work(self._stopped.is_set)
                self._read_new_turns()
                user = self.users.next_idle(self.idle)
                if user is not None:
                    self._consolidate(user)
            except Exception:  # one user's failure must not end the thread
                logger.exception("A consolidation failed.")

    def _read_new_turns(self) -> None:
        while self.users.unread and not (self.busy() or self._stopped.is_set()):
            try:
                self._reading = self.users.next_unread()
                if self._reading is not None:  # erased meanwhile
                    self._read(self._reading)
            except Exception:  # one user's failure must not end the consolidation of another
                logger.exception("Turns could not be read for facts.")
            finally:
                self._reading = None

    def _read(self, user: User) -> None:
        latest = time.monotonic() + MAX_WAIT
        while self._wait_for_others(user, latest) and user.read_facts():
            if self._stopped.wait(POLL):
                break
            user.settle()
        if self._stopped.is_set():
            user.close()

    def _wait_for_others(self, user: User, latest: float) -> bool:
        """Until no change waits, and nothing is being answered or it is late. Returns whether the server goes on."""
        while self.changes.waiting or (self.busy() and time.monotonic() < latest):
            user.pause()
            self.changes.work(self._stopped.is_set)
            if self._stopped.wait(POLL):
                return False
        return True

    def _consolidate(self, user: User) -> None:
        while user.begin():  # what is new is read first; anew where the user's own memory was changed
            if self._stopped.wait(POLL):
                user.close()
                return
            if self.changes.waiting:
                user.pause()
                self.changes.work(self._stopped.is_set)
                continue
            report = user.settle()
            if report is not None:
                logger.info("%s: %s", user.session.directory.name, report)
                return
            if self.users.unread:  # of others, which takes seconds
                user.pause()
                self._read_new_turns()
