"""`User`: a memory and the messages that are not in it yet. `Users`: all users of a server, in one directory.

A client sends its whole conversation with every request, and only new turns must be recorded. A turn is identified by
its question and the answer before it. So a conversation that is sent again, or only its end, adds nothing. A question
that is asked again after a newer one is recorded again: it may change a fact back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from transformers import PreTrainedTokenizerBase

from ..chat.all_facts import Shown
from ..chat.directory import CHANGES, TURNS
from ..chat.fact_change import FactChange
from ..chat.session import ChatSession
from ..consolidation.control import Progress
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.report import Report
from ..util.files import private_directory, read_list, write_list
from ..util.messages import Message
from .directories import (
    delete,
    delete_leftovers,
    directory_name,
    lock_store,
    read_identity,
    user_directories,
    write_identity,
)
from .turns import Turn, is_digest, turns

SEEN = "seen.json"  # in a user's directory
MAX_SEEN = 10_000  # questions
MAX_LOADED = 64  # users that stay loaded between requests
MAX_LOADED_BYTES = 1 << 30  # of their memories; one user stays loaded whatever its size
KEEP_VERSIONS = 3  # of a user's memory


class User:
    """One user's session and the record of its turns. Safe to use from several threads.

    Parameters
    ----------
    keep_versions : versions of the memory that stay on disk when another is accepted, including the active one.

    Attributes
    ----------
    erased : everything was deleted. This object writes nothing anymore.
    """

    def __init__(self, session: ChatSession, keep_versions: int = KEEP_VERSIONS) -> None:
        self.session, self.keep_versions, self.erased = session, keep_versions, False
        self._identity = read_identity(session.directory)
        self._lock = threading.RLock()
        # The digests of the recorded turns, in order: `digest` and `digest_as_first` of each.
        self._seen: list[str] = read_list(
            session.directory / SEEN,
            "questions",
            is_digest,
            "Move it away; what clients send again is then learned again.",
        )
        for turn in self._unmarked():
            self._mark_seen(turn)
        self._last_active, self._requests = time.monotonic(), 0

    @property
    def memory(self) -> Memory | None:
        return self.session.memory

    @property
    def waiting(self) -> int:
        """Messages that are not in the memory yet."""
        return len(self.session.messages)

    def store_identity(self, identity: str) -> None:
        """Write the id to the user's directory, so that users can be listed."""
        if identity == self._identity:  # read without the lock: `erase` holds it for a while
            return
        with self._lock:
            if not self.erased:
                write_identity(self.session.directory, identity)
                self._identity = identity

    def idle_seconds(self) -> float:
        """Seconds since the last request was answered; 0 during a request."""
        return 0.0 if self._requests else time.monotonic() - self._last_active

    def __enter__(self) -> User:
        """A request of the user begins; it ends with `__exit__`."""
        with self._lock:
            self._requests += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._requests -= 1
            self._last_active = time.monotonic()

    def record(self, conversation: Sequence[Message], answer: str) -> None:
        """Add the new turns of a conversation to the messages that wait to be consolidated."""
        sent = turns([*conversation, {"role": "assistant", "content": answer}])
        with self._lock:
            if self.erased:
                return
            new = self._new_turns(sent)
            if not new:
                return
            self.session.note(*(message for turn in new for message in turn.messages()))
            for turn in new:
                self._mark_seen(turn)
            self._seen = self._seen[-2 * MAX_SEEN :]
            write_list(self.session.directory / SEEN, "questions", self._seen)

    def _mark_seen(self, turn: Turn) -> None:
        self._seen += dict.fromkeys([turn.digest(), turn.digest_as_first()])

    def _unmarked(self) -> list[Turn]:
        """Turns whose messages were written before the process was killed, and whose digests were not."""
        written = turns(self.session.messages)
        last = self._seen[-1] if self._seen else None
        marked = next((n for n in range(len(written), 0, -1) if written[n - 1].digest_as_first() == last), 0)
        return written[marked:]

    def _new_turns(self, sent: Sequence[Turn]) -> list[Turn]:
        """The turns that were not recorded: those that the conversation has more often than the record, and its last
        turn if that is not the last one recorded.
        """
        recorded, count = Counter(self._seen), Counter[str]()
        new: list[Turn] = []
        for turn in sent:
            count[turn.digest()] += 1
            again = turn is sent[-1] and self._seen[-1:] != [turn.digest_as_first()]
            if again or count[turn.digest()] > recorded[turn.digest()]:
                new.append(turn)
        return new

    def with_notes(self, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[Message]:
        """The messages of a request with what is known in words, see `ChatSession.with_notes`."""
        return self.session.with_notes(messages, tokenizer=tokenizer)

    # ------------------------------------------------------------------ facts and consolidation

    def facts(self, status: Shown = "known") -> list[Fact]:
        """What is known of the user, see `ChatSession.facts`."""
        return self.session.facts(status)

    def at_once(self, change: FactChange) -> bool:
        """Whether a change is one of words alone, and takes no time."""
        return self.session.at_once(change)

    def read_facts(self) -> bool:
        """Let the writer read new turns in the background, or go on. Returns whether there is anything to read."""
        with self._lock:
            return not self.erased and self.session.read_facts()

    def pause(self) -> None:
        """Let what `begin` or `read_facts` started wait, within a token."""
        self.session.pause()  # without the lock, for a request that comes: `erase` holds it for a while

    def begin(self) -> bool:
        """Start to consolidate the waiting messages in the background. Returns whether there is anything to do."""
        with self._lock:
            return not self.erased and self.session.begin()

    def settle(self) -> Report | None:
        """Take over the result of a consolidation that has ended, or raise its error. Older versions are pruned."""
        with self._lock:
            report = self.session.settle()
            if report is not None and report.accepted:
                self.session.store.prune(self.keep_versions)
            return report

    def consolidating(self) -> bool:
        with self._lock:
            return self.session.progress is not None

    def change(self, change: FactChange, progress: Callable[[Progress], None]) -> Report | None:
        """Change facts. Turns are recorded meanwhile. None if the user was erased before the end. It begins again where
        the memory was changed otherwise, such as by a rollback.

        progress : called at every step. What it raises ends the work.
        """
        while True:
            with self._lock:
                if self.erased:
                    return None
                earlier, make = self.session.memory, self.session.changing(change, progress)
            made = make()
            with self._lock:
                if self.erased:
                    return None
                if self.session.memory is not earlier:
                    continue
                report = self.session.take(change, made)
                if report.accepted:
                    self.session.store.prune(self.keep_versions)
                return report

    def write_changes(self, changes: list[Any]) -> None:
        """Write which changes of facts wait, so that a restart does them."""
        with self._lock:
            if not self.erased:
                write_list(self.session.directory / CHANGES, "changes", changes)

    def close(self) -> None:
        """Stop a consolidation. Its work is kept for the next time."""
        with self._lock:
            self.session.close()

    def erase(self) -> None:
        """Delete messages, memory and directory. A request that is being answered keeps its memory until its end."""
        with self._lock:
            self.session.abandon()
            delete(self.session.directory)
            self.erased = True  # only now: if `delete` raises, the user still exists
            self.session.memory, self.session.messages, self.session.last_report = None, [], None
            self._identity, self._seen = None, []

    def status(self) -> dict[str, Any]:
        """The state of the memory, as a JSON object."""
        with self._lock:
            return self._status()

    def _status(self) -> dict[str, Any]:
        session, progress, memory = self.session, self.session.progress, self.session.memory
        return {
            "entries": [] if memory is None else [{"name": e.name, "created": e.created} for e in memory.entries],
            "bytes": 0 if memory is None else memory.nbytes,
            "version": session.store.current(),
            "messages_waiting": len(session.messages),
            "facts_waiting": len(session.waiting_facts()),
            "consolidating": None if progress is None else {
                "stage": progress.stage, "done": progress.done, "total": progress.total,
                "seconds_left": progress.seconds_left,
            },
            "last_report": None if session.last_report is None else session.last_report.to_dict(),
        }  # fmt: skip


class Users:
    """All users of a server. Those without a request are on disk, except for the latest few.

    Parameters
    ----------
    directory : the store, for one server at a time. What killed processes left half written in it is deleted.
    open_session : opens the session in a user's directory.
    keep_versions : versions of each user's memory that stay on disk.

    Raises
    ------
    InputError
        When another server uses the directory.
    """

    def __init__(
        self, directory: Path, open_session: Callable[[Path], ChatSession], keep_versions: int = KEEP_VERSIONS
    ) -> None:
        self.directory, self.keep_versions = private_directory(directory), keep_versions
        self._open_session = open_session
        self._store_lock = lock_store(directory)
        delete_leftovers(directory)
        self._lock = threading.RLock()
        # Simultaneous requests of one user share one object.
        self._loaded: WeakValueDictionary[str, User] = WeakValueDictionary()
        self._recent: dict[str, User] = {}
        # When the users with waiting messages were last active, by directory name. They need not be loaded.
        self._unlearned: dict[str, float] = {}
        self._unread: dict[str, None] = {}  # those with turns that the writer may have to read, as a set in order
        for path in user_directories(directory):
            if (path / TURNS).exists():  # from before the server was started
                self._unlearned[path.name], self._unread[path.name] = -inf, None

    def close(self) -> None:
        self._store_lock.release()

    def name_of(self, identity: str) -> str:
        """The name of a user's directory."""
        return directory_name(identity)

    def paths(self) -> list[Path]:
        """The directories of all users."""
        return user_directories(self.directory)

    def known(self, identity: str) -> bool:
        """Whether anything is stored of a user.

        Raises
        ------
        InputError
            See `check_identity`.
        """
        return (self.directory / directory_name(identity)).is_dir()

    def stored(self) -> list[tuple[str | None, str]]:
        """The id and the directory's name of every user. The id is None in a directory that an earlier version made,
        until its user's next request.
        """
        read = [(read_identity(path), path) for path in user_directories(self.directory)]
        found = [(identity, path.name) for identity, path in read if path.is_dir()]  # not erased meanwhile
        return sorted(found, key=lambda user: (user[0] is None, user))

    def get(self, identity: str) -> User:
        """The object of a user, loaded or made if needed.

        Raises
        ------
        InputError
            See `check_identity`.
        CheckpointError
            When the user's files are damaged, or made for another base.
        """
        with self._lock:
            user = self._user(directory_name(identity))
            user.store_identity(identity)
            return user

    def open(self, name: str) -> User | None:
        """The object of the user of a directory; None if there is no such directory."""
        with self._lock:
            return self._user(name) if (self.directory / name).is_dir() else None

    def _user(self, name: str) -> User:
        user = self._loaded.get(name)
        if user is None:
            user = self._loaded[name] = User(self._open_session(self.directory / name), self.keep_versions)
        self._recent.pop(name, None)
        self._recent[name] = user
        while len(self._recent) > MAX_LOADED or (len(self._recent) > 1 and self._loaded_bytes() > MAX_LOADED_BYTES):
            del self._recent[next(iter(self._recent))]
        return user

    def _loaded_bytes(self) -> int:
        """Bytes of the memories of the users who stay loaded."""
        memories = (user.memory for user in self._recent.values())
        return sum(memory.nbytes for memory in memories if memory is not None)

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Record the new turns of a conversation. They are consolidated when the user is idle."""
        user.record(conversation, answer)
        with self._lock:
            if user.waiting and not user.erased:
                self._unlearned[directory_name(identity)] = time.monotonic()
                self._unread[directory_name(identity)] = None

    @property
    def unread(self) -> bool:
        """Whether there is a user for `next_unread`."""
        return bool(self._unread)

    def next_unread(self) -> User | None:
        """A user with turns that the writer may have to read. Returned once, until another turn is recorded."""
        with self._lock:
            for name in self._unread:
                del self._unread[name]
                return self._user(name)
        return None

    def next_idle(self, seconds: float) -> User | None:
        """A user with waiting messages who has been idle that long. Returned once, until another turn is recorded."""
        with self._lock:
            for name, last_active in self._unlearned.items():
                loaded = self._loaded.get(name)
                if (time.monotonic() - last_active if loaded is None else loaded.idle_seconds()) >= seconds:
                    del self._unlearned[name]
                    return self._user(name)
        return None

    def erase(self, identity: str) -> None:
        """Delete all that is stored of a user, damaged or not.

        Raises
        ------
        InputError
            See `check_identity`.
        """
        name = directory_name(identity)
        loaded = self._loaded.get(name)
        if loaded is not None:
            loaded.erase()  # outside of the lock: it may wait for a step of training
        with self._lock:
            self._recent.pop(name, None)
            self._unlearned.pop(name, None)
            self._unread.pop(name, None)
            user = self._loaded.pop(name, None)
            if user is not None:
                user.erase()
            else:
                delete(self.directory / name)
