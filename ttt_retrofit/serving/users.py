"""One user's memory and the words that are not in it yet; all users of a server, in one directory.

A client sends its whole conversation with every request. What counts as said is each question once, known by what was
answered just before it: so a conversation that is sent again, or only its end, says nothing new.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from filelock import FileLock, Timeout

from ..agent import TURNS, ChatSession
from ..errors import InputError
from ..files import private_directory, read_list, remove, remove_unfinished, write_list
from ..memory.memory import Memory
from ..memory.report import Report
from ..messages import Message

SEEN = "seen.json"  # in a user's directory
SEEN_AT_MOST = 10_000  # questions
RECENT = 64  # users that stay loaded though nobody asks


@dataclass(frozen=True)
class Turn:
    """A question, the answer to it, and what was answered just before."""

    before: str | None
    asked: str
    answered: str

    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.before, self.asked]).encode()).hexdigest()[:32]

    def digest_as_first(self) -> str:
        """Of the same question where the conversation before it was left out."""
        return Turn(None, self.asked, "").digest()

    def messages(self) -> tuple[Message, Message]:
        return {"role": "user", "content": self.asked}, {"role": "assistant", "content": self.answered}


def _is_digest(item: Any) -> bool:
    """Of a turn, as `Turn.digest` writes it."""
    return isinstance(item, str) and re.fullmatch(r"[0-9a-f]{32}", item) is not None


def turns(messages: Sequence[Message]) -> list[Turn]:
    """The turns of a conversation. System prompts are no part of it; messages of one role in a row are one."""
    said: list[Message] = []
    for message in messages:
        if message["role"] == "system":
            continue
        if said and said[-1]["role"] == message["role"]:
            said[-1] = {**message, "content": f"{said[-1]['content']}\n\n{message['content']}"}
        else:
            said.append(dict(message))
    before, found = None, []
    for index, message in enumerate(said):
        if message["role"] == "user":
            answered = said[index + 1]["content"] if index + 1 < len(said) else ""
            found.append(Turn(before, message["content"], answered))
        else:
            before = message["content"]
    return found


class User:
    """What is known of one user. Safe to use from several threads.

    Attributes
    ----------
    erased : everything was deleted; whoever still holds this object writes nothing anymore.
    """

    def __init__(self, session: ChatSession) -> None:
        self.session, self.erased = session, False
        self._lock = threading.RLock()
        self._seen = dict.fromkeys(
            read_list(
                session.directory / SEEN,
                "questions",
                _is_digest,
                "Move it away; what clients send again is then learned again.",
            )
        )
        self._heard, self._visits = time.monotonic(), 0

    @property
    def memory(self) -> Memory | None:
        return self.session.memory

    @property
    def waiting(self) -> int:
        """Messages that are not in the memory yet."""
        return len(self.session.messages)

    def silent(self) -> float:
        """Seconds since anything was asked or answered."""
        return 0.0 if self._visits else time.monotonic() - self._heard

    def __enter__(self) -> User:
        with self._lock:
            self._visits += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._visits -= 1
            self._heard = time.monotonic()

    def record(self, conversation: Sequence[Message], answer: str) -> None:
        """Keep what is new in a conversation, until it is consolidated."""
        said = turns([*conversation, {"role": "assistant", "content": answer}])
        with self._lock:
            if self.erased:
                return
            new = [turn for turn in said if turn.digest() not in self._seen]
            if not new:
                return
            self.session.note(*(message for turn in new for message in turn.messages()))
            for turn in new:
                self._seen |= {turn.digest(): None, turn.digest_as_first(): None}
            self._seen = dict.fromkeys([*self._seen][-2 * SEEN_AT_MOST :])
            write_list(self.session.directory / SEEN, "questions", [*self._seen])

    # ------------------------------------------------------------------ what the keeper does

    def begin(self) -> bool:
        """Consolidate what waits, in the background; whether there is anything to do."""
        with self._lock:
            return not self.erased and self.session.begin()

    def settle(self) -> Report | None:
        """Take over what has ended; raises what it failed with."""
        with self._lock:
            return self.session.settle()

    def working(self) -> bool:
        with self._lock:
            return self.session.progress is not None

    def close(self) -> None:
        """Stop a consolidation; what it has done is kept for the next time."""
        with self._lock:
            self.session.close()

    def erase(self) -> None:
        """Delete everything, words and memory, and the directory."""
        with self._lock:
            self.erased = True
            self.session.abandon()
            remove(self.session.directory)

    def status(self) -> dict[str, Any]:
        """What is remembered, in JSON values."""
        with self._lock:
            return self._status()

    def _status(self) -> dict[str, Any]:
        session, progress, memory = self.session, self.session.progress, self.session.memory
        return {
            "entries": [] if memory is None else [{"name": e.name, "created": e.created} for e in memory.entries],
            "bytes": 0 if memory is None else memory.nbytes,
            "version": session.store.current(),
            "messages_waiting": len(session.messages),
            "consolidating": None if progress is None else {
                "stage": progress.stage, "done": progress.done, "total": progress.total,
            },
            "last_report": None if session.last_report is None else session.last_report.to_dict(),
        }  # fmt: skip


def folder(identity: str) -> str:
    """The name of a user's directory: nothing that a user sends becomes part of a path."""
    return hashlib.sha256(identity.encode()).hexdigest()[:32]


class Users:
    """All users of a server.

    Parameters
    ----------
    directory : of the store; one server at a time.
    opened : makes the session of a user's directory.

    Raises
    ------
    InputError
        When another server uses the directory.
    """

    def __init__(self, directory: Path, opened: Callable[[Path], ChatSession]) -> None:
        self.directory, self._opened = private_directory(directory), opened
        self._held = held(directory)
        remove_unfinished(directory)
        self._lock = threading.RLock()
        # Whoever asks at the same time gets the same object; who is silent and has nothing to learn is let go.
        self._loaded: WeakValueDictionary[str, User] = WeakValueDictionary()
        self._recent: dict[str, User] = {}
        self._unlearned: dict[str, User | None] = {}
        for path in sorted(directory.glob(f"*/{TURNS}")):  # what was said before the server was started
            self._unlearned[path.parent.name] = None

    def close(self) -> None:
        self._held.release()

    def known(self, identity: str) -> bool:
        """Whether anything is stored of a user."""
        return (self.directory / folder(identity)).is_dir()

    def get(self, identity: str) -> User:
        """The one object for a user, new or not.

        Raises
        ------
        CheckpointError
            When the user's files are damaged, or made for another base.
        """
        with self._lock:
            return self._user(folder(identity))

    def _user(self, name: str) -> User:
        user = self._loaded.get(name)
        if user is None:
            user = self._loaded[name] = User(self._opened(self.directory / name))
        self._recent.pop(name, None)
        self._recent[name] = user
        for longest_ago in [*self._recent][:-RECENT]:
            del self._recent[longest_ago]
        return user

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Keep what is new in a conversation, and have it consolidated when the user has been silent."""
        user.record(conversation, answer)
        with self._lock:
            if user.waiting and not user.erased:
                self._unlearned[folder(identity)] = user

    def next_silent(self, seconds: float) -> User | None:
        """A user with something to learn who has been silent that long; asked for once, until more is said."""
        with self._lock:
            for name, user in self._unlearned.items():
                if user is None or user.silent() >= seconds:
                    del self._unlearned[name]
                    return user or self._user(name)
        return None

    def erase(self, identity: str) -> None:
        """Delete all that is stored of a user, damaged or not."""
        name = folder(identity)
        working = self._loaded.get(name)
        if working is not None:
            working.erase()  # may wait for a step of training; others go on meanwhile
        with self._lock:
            self._recent.pop(name, None)
            self._unlearned.pop(name, None)
            user = self._loaded.pop(name, None)
            if user is not None:
                user.erase()
            else:
                remove(self.directory / name)


def held(directory: Path) -> FileLock:
    """Hold a server's store against a second one.

    Raises
    ------
    InputError
        When another process holds it.
    """
    # Released by another thread than the one that acquired it.
    lock = FileLock(private_directory(directory) / "serving.lock", thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"A server is using {directory}. Stop it, or ask it: DELETE /v1/memories/USER erases a user."
        ) from error
    return lock


def erase_stored(directory: Path, identity: str) -> bool:
    """Delete all that a server has stored of a user, while no server runs; whether there was anything.

    Raises
    ------
    InputError
        When a server is using the directory.
    """
    if not directory.is_dir():
        raise InputError(f"There is no directory {directory}. Expected what was given to `serve --store`.")
    lock, path = held(directory), directory / folder(identity)
    try:
        if not path.is_dir():
            return False
        shutil.rmtree(path)
        return True
    finally:
        lock.release()
