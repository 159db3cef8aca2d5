"""One user's memory and the words that are not in it yet; all users of a server, in one directory.

A client sends its whole conversation with every request. What counts as said is each question once, known by what was
answered just before it: so a conversation that is sent again, or only its end, says nothing new. It counts only until
something newer is said: who then asks it again says it again, such as a fact that is changed back.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from ..chat.directory import TURNS
from ..chat.session import ChatSession
from ..memory.memory import Memory
from ..memory.report import Report
from ..util.files import private_directory, read_list, write_list
from ..util.messages import STUDIED, Message
from .directories import delete, folder, folders, held, read_identity, tidy, write_identity

SEEN = "seen.json"  # in a user's directory
SEEN_AT_MOST = 10_000  # questions
RECENT = 64  # users that stay loaded though nobody asks, at most
RESIDENT = 1 << 30  # bytes of their memories, at most; one user stays however large
KEEP_VERSIONS = 3  # of a user's memory


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
        if message["role"] not in STUDIED:
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

    Parameters
    ----------
    keep_versions : versions of the memory that stay on disk when another is accepted, the one that speaks among them.

    Attributes
    ----------
    erased : everything was deleted; whoever still holds this object writes nothing anymore.
    """

    def __init__(self, session: ChatSession, keep_versions: int = KEEP_VERSIONS) -> None:
        self.session, self.keep_versions, self.erased = session, keep_versions, False
        self._identity = read_identity(session.directory)
        self._lock = threading.RLock()
        # The digests of every question that was recorded, in that order: as it was, and as the first of its request.
        self._seen: list[str] = read_list(
            session.directory / SEEN,
            "questions",
            _is_digest,
            "Move it away; what clients send again is then learned again.",
        )
        for turn in self._unnoted():
            self._note(turn)
        self._heard, self._visits = time.monotonic(), 0

    @property
    def memory(self) -> Memory | None:
        return self.session.memory

    @property
    def waiting(self) -> int:
        """Messages that are not in the memory yet."""
        return len(self.session.messages)

    def seen_as(self, identity: str) -> None:
        """Keep the id beside what is kept of the user, so that they can be listed."""
        if identity == self._identity:  # asked without the lock, which whoever is erased holds for a while
            return
        with self._lock:
            if not self.erased:
                write_identity(self.session.directory, identity)
                self._identity = identity

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
            new = self._new(said)
            if not new:
                return
            self.session.note(*(message for turn in new for message in turn.messages()))
            for turn in new:
                self._note(turn)
            self._seen = self._seen[-2 * SEEN_AT_MOST :]
            write_list(self.session.directory / SEEN, "questions", self._seen)

    def _note(self, turn: Turn) -> None:
        self._seen += dict.fromkeys([turn.digest(), turn.digest_as_first()])

    def _unnoted(self) -> list[Turn]:
        """The last turns whose words were kept before a kill, and of which it was not yet noted that they were."""
        kept = turns(self.session.messages)
        last = self._seen[-1] if self._seen else None
        noted = next((n for n in range(len(kept), 0, -1) if kept[n - 1].digest_as_first() == last), 0)
        return kept[noted:]

    def _new(self, said: Sequence[Turn]) -> list[Turn]:
        """The turns that were not recorded: those that stand in the conversation more often than in the record, and the
        one that was just answered, where it is not what was recorded last.
        """
        recorded, sent = Counter(self._seen), Counter[str]()
        new: list[Turn] = []
        for turn in said:
            sent[turn.digest()] += 1
            again = turn is said[-1] and self._seen[-1:] != [turn.digest_as_first()]
            if again or sent[turn.digest()] > recorded[turn.digest()]:
                new.append(turn)
        return new

    # ------------------------------------------------------------------ what the keeper does

    def begin(self) -> bool:
        """Consolidate what waits, in the background; whether there is anything to do."""
        with self._lock:
            return not self.erased and self.session.begin()

    def settle(self) -> Report | None:
        """Take over what has ended; raises what it failed with. Of older versions, only the latest few stay."""
        with self._lock:
            report = self.session.settle()
            if report is not None and report.accepted:
                self.session.store.prune(self.keep_versions)
            return report

    def working(self) -> bool:
        with self._lock:
            return self.session.progress is not None

    def close(self) -> None:
        """Stop a consolidation; what it has done is kept for the next time."""
        with self._lock:
            self.session.close()

    def erase(self) -> None:
        """Delete everything, words and memory, and the directory; a request being answered has its memory till then."""
        with self._lock:
            self.session.abandon()
            delete(self.session.directory)
            self.erased = True  # not before: what could not be deleted goes on
            self.session.memory, self.session.messages, self.session.last_report = None, [], None
            self._identity, self._seen = None, []

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


class Users:
    """All users of a server. Of those that nobody asks about, only the latest few are in memory; the rest are on disk.

    Parameters
    ----------
    directory : of the store; one server at a time. What kills have left half written in it is deleted.
    opened : makes the session of a user's directory.
    keep_versions : versions of each user's memory that stay on disk.

    Raises
    ------
    InputError
        When another server uses the directory.
    """

    def __init__(
        self, directory: Path, opened: Callable[[Path], ChatSession], keep_versions: int = KEEP_VERSIONS
    ) -> None:
        self.directory, self._opened, self.keep_versions = private_directory(directory), opened, keep_versions
        self._held = held(directory)
        tidy(directory)
        self._lock = threading.RLock()
        # Whoever asks at the same time gets the same object.
        self._loaded: WeakValueDictionary[str, User] = WeakValueDictionary()
        self._recent: dict[str, User] = {}
        # Who has something to learn, by name, and when they were last heard: they wait on disk.
        self._unlearned: dict[str, float] = {}
        for path in folders(directory):
            if (path / TURNS).exists():  # said before the server was started
                self._unlearned[path.name] = -inf

    def close(self) -> None:
        self._held.release()

    def known(self, identity: str) -> bool:
        """Whether anything is stored of a user.

        Raises
        ------
        InputError
            For what is no user id.
        """
        return (self.directory / folder(identity)).is_dir()

    def stored(self) -> list[tuple[str | None, str]]:
        """The id and the directory's name of every user. An id is None in a directory that an earlier version made,
        until its user is seen again.
        """
        read = [(read_identity(path), path) for path in folders(self.directory)]
        found = [(identity, path.name) for identity, path in read if path.is_dir()]  # not erased meanwhile
        return sorted(found, key=lambda user: (user[0] is None, user))

    def get(self, identity: str) -> User:
        """The one object for a user, new or not.

        Raises
        ------
        InputError
            For what is no user id.
        CheckpointError
            When the user's files are damaged, or made for another base.
        """
        with self._lock:
            user = self._user(folder(identity))
            user.seen_as(identity)
            return user

    def _user(self, name: str) -> User:
        user = self._loaded.get(name)
        if user is None:
            user = self._loaded[name] = User(self._opened(self.directory / name), self.keep_versions)
        self._recent.pop(name, None)
        self._recent[name] = user
        while len(self._recent) > RECENT or (len(self._recent) > 1 and self._resident() > RESIDENT):
            del self._recent[next(iter(self._recent))]
        return user

    def _resident(self) -> int:
        """Bytes of the memories of those who stay loaded."""
        memories = (user.memory for user in self._recent.values())
        return sum(memory.nbytes for memory in memories if memory is not None)

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        """Keep what is new in a conversation, and have it consolidated when the user has been silent."""
        user.record(conversation, answer)
        with self._lock:
            if user.waiting and not user.erased:
                self._unlearned[folder(identity)] = time.monotonic()

    def next_silent(self, seconds: float) -> User | None:
        """A user with something to learn who has been silent that long; asked for once, until more is said."""
        with self._lock:
            for name, heard in self._unlearned.items():
                loaded = self._loaded.get(name)
                if (time.monotonic() - heard if loaded is None else loaded.silent()) >= seconds:
                    del self._unlearned[name]
                    return self._user(name)
        return None

    def erase(self, identity: str) -> None:
        """Delete all that is stored of a user, damaged or not.

        Raises
        ------
        InputError
            For what is no user id.
        """
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
                delete(self.directory / name)
