"""Consolidations as Ray tasks. An actor hands them out: one task for each user who is due in the store.

Ray decides where a task runs, and runs it again when its worker dies. The actor knows nothing that is not in the store,
except which tasks run, and how changes of facts ended. When it dies Ray starts it again, and its tasks end with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..chat.session import ChatSession
from ..errors import MissingExtraError
from .changes import MAX_ENDED, Requested
from .directories import SERVING
from .pending import PendingUsers
from .queued import work_for
from .shared_users import SharedUsers
from .user import KEEP_VERSIONS

try:
    import ray
except ImportError as error:
    raise MissingExtraError("serve --ray", "ray[serve]", "ray") from error

logger = logging.get_logger(__name__)

POLL = 0.5  # seconds between two looks at who is due
RETRIES = 3  # of a task whose worker died
MAX_HANDED_OUT = 1000  # tasks that run or wait for a worker


@dataclass(frozen=True)
class SharedStore:
    """A store, and how a process opens its users.

    Attributes
    ----------
    load : loads the model and the tokenizer; called once in every process.
    directory : of all users, on a filesystem that every machine of the cluster sees.
    idle : seconds without a new turn after which a user's messages are consolidated.
    keep_versions : versions of each user's memory that stay on disk.
    session : what `ChatSession` is given besides: `config`, `questions`, `writer`, `note_tokens`.
    """

    load: Callable[[], tuple[Any, PreTrainedTokenizerBase]]
    directory: Path
    idle: float = 60.0
    keep_versions: int = KEEP_VERSIONS
    session: Mapping[str, Any] = field(default_factory=dict)

    def users(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> SharedUsers:
        """The users, with a model that was loaded."""
        open_session = partial(ChatSession, model, tokenizer, keep_turns=0, **self.session)
        return SharedUsers(self.directory, open_session, self.keep_versions, self.idle)


_users: dict[Path, SharedUsers] = {}  # a worker process works for many users, one after another


def consolidate(store: SharedStore, name: str) -> list[Requested]:
    """The task: see `work_for`."""
    if store.directory not in _users:
        _users[store.directory] = store.users(*store.load())
    return work_for(_users[store.directory], name)


class Consolidations:
    """The actor.

    Parameters
    ----------
    cpus, gpus : what a task takes of the cluster. Ray runs as many at once as there is room for.
    """

    def __init__(self, store: SharedStore, cpus: float, gpus: float) -> None:
        self._store, self._pending = store, PendingUsers(store.directory)
        # Without max_calls Ray ends a worker after each task that has a GPU, and the next one loads the model again.
        task = ray.remote(max_calls=0)(consolidate)
        self._task = task.options(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)
        self._running: dict[str, Any] = {}  # references to the results, by the name of the user's directory
        self._ended: dict[str, Requested] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def running(self) -> list[str]:
        """Names of the users for whom a task runs, or waits for a worker."""
        return list(self._running)

    def ended(self, name: str) -> list[Requested]:
        """The changes of a user's facts that have ended since the start."""
        return [one for one in list(self._ended.values()) if one.user == name]

    def _run(self) -> None:
        # The one whom this replaces may not have ended yet.
        with FileLock(self._store.directory / SERVING, thread_local=False):
            store = ray.put(self._store)
            while True:
                try:
                    self._hand_out(store)
                    self._settle()
                except Exception:  # of a filesystem that is away for a moment
                    logger.exception("Consolidations could not be handed out.")
                    threading.Event().wait(POLL)

    def _hand_out(self, store: Any) -> None:
        for name in self._pending.due():
            if len(self._running) >= MAX_HANDED_OUT:
                break
            if name not in self._running:
                self._running[name] = self._task.remote(store, name)

    def _settle(self) -> None:
        if not self._running:
            threading.Event().wait(POLL)
            return
        names = {reference: name for name, reference in self._running.items()}
        ended, _ = ray.wait([*names], num_returns=len(names), timeout=POLL)
        for reference in ended:
            name = names[reference]
            try:
                self._ended |= {one.id: one for one in ray.get(reference)}
            except ray.exceptions.RayTaskError:
                logger.exception("A consolidation failed.")
            except ray.exceptions.RayError:  # its workers died, more often than it is tried again
                logger.exception("A consolidation has lost its worker %d times.", 1 + RETRIES)
                self._pending.done(name, self._pending.stamp(name), self._store.idle)
            del self._running[name]
        while len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]
