"""`User`: a memory and the messages that are not in it yet.

A client sends its whole conversation with every request, and only new turns must be recorded. A turn is identified by
its question and the answer before it. So a conversation that is sent again, or only its end, adds nothing. A question
that is asked again after a newer one is recorded again: it may change a fact back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..chat.all_facts import Shown
from ..chat.directory import CHANGES
from ..chat.fact_change import FactChange
from ..chat.session import ChatSession
from ..consolidation.control import Progress
from ..memory.facts import Fact
from ..memory.memory import Memory
from ..memory.report import Report
from ..util.files import read_list, write_list
from ..util.messages import Message
from .directories import (
    delete,
    read_identity,
    write_identity,
)
from .turns import Turn, is_digest, turns

SEEN = "seen.json"  # in a user's directory
MAX_SEEN = 10_000  # questions
KEEP_VERSIONS = 3  # of a user's memory
MemoryChanged = Callable[[str, Memory | None], None]  # is given the name of the user's directory


class User:
    """One user's session and the record of its turns. Safe to use from several threads.

    Parameters
    ----------
    keep_versions : versions of the memory that stay on disk when another is accepted, including the active one.
    changed : is told when another memory was accepted, in the thread that consolidates.

    Attributes
    ----------
    erased : everything was deleted. This object writes nothing anymore.
    """

    def __init__(
        self, session: ChatSession, keep_versions: int = KEEP_VERSIONS, changed: MemoryChanged | None = None
    ) -> None:
        self.session, self.keep_versions, self.erased = session, keep_versions, False
        self._changed = changed
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
    def name(self) -> str:
        """Of the user's directory."""
        return self.session.directory.name

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

    def with_notes(
        self, messages: Sequence[Message], tokenizer: PreTrainedTokenizerBase, told: Sequence[Fact] = ()
    ) -> list[Message]:
        """The messages of a request with what is known in words, see `ChatSession.with_notes`."""
        return self.session.with_notes(messages, tokenizer=tokenizer, told=told)

    def concerned(self, messages: Sequence[Message]) -> bool:
        """Whether a request is about what is known in words, see `ChatSession.concerned`."""
        return self.session.concerned(messages)

    # ------------------------------------------------------------------ facts and consolidation

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other threads and processes from writing what is stored of the user."""
        with self._lock, nullcontext() if self.erased else self.session.locked():
            yield

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
        self._tell(report)
        return report

    def _tell(self, report: Report | None) -> None:
        if self._changed is not None and report is not None and report.accepted and not self.erased:
            self._changed(self.name, self.memory)

    def consolidating(self) -> bool:
        with self._lock:
            return self.session.progress is not None

    def change(self, change: FactChange, progress: Callable[[Progress], None]) -> Report | None:
        """Change facts. Turns are recorded meanwhile. None if the user was erased before the end. It begins again where
        the memory was changed otherwise, such as by a rollback.

        progress : called at every step. What it raises ends the work.
        """
        while True:
            with self.held():
                if self.erased:
                    return None
                self.session.take_over()
                earlier, make = self.session.memory, self.session.changing(change, progress)
            made = make()
            with self.held():
                if self.erased:
                    return None
                if self.session.memory is not earlier:
                    continue
                self.session.take_over()
                report = self.session.take(change, made)
                if report.accepted:
                    self.session.store.prune(self.keep_versions)
            self._tell(report)
            return report

    def finish(self, change: FactChange) -> None:
        """See `ChatSession.finish`: of a change that was done when the server was killed."""
        with self._lock:
            if not self.erased:
                self.session.finish(change)

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
