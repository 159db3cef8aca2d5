"""`Owner`: the user of a page, whose chats and memory change together. `OnlyOwner`: a directory of that one user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...chat.fact_change import FactChange
from ...chat.person_reviewer import PersonReviewer
from ...chat.session import ChatSession
from ...consolidation.control import Progress
from ...consolidation.verify.traces import Traces
from ...errors import InputError
from ...memory.memory_file import HEADER
from ...memory.report import Report
from ...memory.store import VERSIONS
from ...util.messages import Message
from ..user import User
from .chats import Chat, Chats

NAME = "me"  # the user's id in the addresses below /v1/memories
ALL = 1 << 30  # versions are kept


class Owner(User):
    """The user of a page.

    Parameters
    ----------
    review : the reviewer of the session. A change of the memory dismisses it: what is built on the memory is abandoned.

    Attributes
    ----------
    chats : all of them share the memory.
    """

    def __init__(self, session: ChatSession, review: PersonReviewer) -> None:
        super().__init__(session, ALL)
        self.review, self.chats = review, Chats(session.messages)

    def add(self, chat: Chat, before: Sequence[Message], asked: Message, answer: Message) -> None:
        """Put a turn behind `before`, in the place of what came after it."""
        with self._lock:
            if self.erased or chat not in self.chats:
                return
            self._withdraw(chat.messages[len(before) :], [asked, answer])
            chat.messages = [*before, asked, answer]

    def remove(self, chat: Chat) -> None:
        """Delete a chat. What of it waits to become memory goes, too."""
        with self._lock:
            self._withdraw(chat.messages)
            self.chats.remove(chat)

    def _withdraw(self, said: Sequence[Message], instead: Sequence[Message] = ()) -> None:
        if any(message in self.session.messages for message in said):
            self.review.dismiss()
        self.session.withdraw(said, instead)

    # ------------------------------------------------------------------ the memory

    def change(self, change: FactChange, progress: Callable[[Progress], None]) -> Report | None:
        """As of any user. The chats lose the exchanges that tell what is deleted: they would tell the model again."""
        self.review.dismiss()
        memory, rewording = self.memory, self.session.rewording(change)
        gone = [] if memory is None else [fact for fact in memory.facts(None) if fact.id in change.ids]
        report = super().change(change, progress)
        if report is not None and report.accepted:
            with self._lock:
                self.chats.keep(rewording)
                if gone and self.memory is not None:
                    left = [fact for fact in self.memory.facts(None) if fact.text]
                    self.chats.keep(Traces(gone, left).exchanges)
        return report

    def forget(self, names: Sequence[str]) -> None:
        """Drop entries of the memory, see `Memory.forget`."""
        if not names:
            raise InputError("No conversation is chosen. Choose one, or several that were learned from each other.")
        with self._lock:
            self.review.dismiss()
            self.session.forget(*names)

    def rollback(self, version: int) -> None:
        """Go back to a version that the current one was built on; 0 is the state before the first.

        Raises
        ------
        InputError
            When it is none of those.
        """
        store = self.session.store
        with self._lock:
            if version not in (0, *store.history()[:-1]):
                raise InputError(f"Version {version} is none that the memory was built on.")
            self.review.dismiss()
            while (store.current() or 0) != version:
                self.session.rollback()

    def versions(self) -> list[dict[str, Any]]:
        """The current version and those to which `rollback` leads, newest first, as JSON objects: when each was made,
        how many facts it has, and which of them the current one has not, and the other way round.
        """
        with self._lock:
            store = self.session.store
            history, now = store.history(), self._facts(None)
            found = []
            for version in (*reversed(history), *([0] if history else [])):
                known = self._facts(version)
                header = store.directory / VERSIONS / f"{version:06d}" / HEADER
                found.append({
                    "version": version, "current": version == history[-1], "facts": len(known),
                    "created": header.stat().st_mtime if version else None,
                    "gained": [text for text in known if text not in now],
                    "lost": [text for text in now if text not in known],
                })  # fmt: skip
            return found

    def _facts(self, version: int | None) -> list[str]:
        """The current facts of a version; None is the memory as it is."""
        memory = self.memory if version is None else self.session.store.load(version) if version else None
        return [] if memory is None else [fact.text for fact in memory.facts()]

    def erase(self) -> None:
        """Delete messages, memory and chats. The session stays open, for another `Owner`."""
        with self._lock:
            self.review.dismiss()
            self.session.erase()
            self.erased = True

    def status(self) -> dict[str, Any]:
        """As `User.status`, with how much each entry holds, and a mark that changes with what waits."""
        with self._lock:
            entries = () if self.memory is None else self.memory.entries
            named = [
                {"name": entry.name, "created": entry.created, "facts": len(entry.facts), "lessons": len(entry.lessons)}
                for entry in entries
            ]
            told = [(fact.id, fact.text, fact.status) for fact in self.session.waiting_facts(None)]
            words = hashlib.sha256(repr(told).encode()).hexdigest()[:12]
            return {**super().status(), "entries": named, "words": words}


class OnlyOwner:
    """What `KnownUsers` asks for, of one user whose directory is the session's.

    Attributes
    ----------
    user : another one after everything was erased.
    """

    def __init__(self, session: ChatSession, review: PersonReviewer) -> None:
        self.user = Owner(session, review)

    def name_of(self, identity: str) -> str:
        return self.user.session.directory.name

    def paths(self) -> list[Path]:
        return [self.user.session.directory]

    def known(self, identity: str) -> bool:
        return identity == NAME

    def stored(self) -> list[tuple[str | None, str]]:
        return [(NAME, self.name_of(NAME))]

    def get(self, identity: str) -> Owner:
        if not self.known(identity):
            raise InputError(f"There is no user {identity!r} here, only {NAME!r}.")
        return self.user

    def open(self, name: str) -> Owner:
        return self.user

    def record(self, identity: str, user: User, conversation: Sequence[Message], answer: str) -> None:
        user.session.note(*conversation, *([{"role": "assistant", "content": answer}] if answer else []))

    def erase(self, identity: str) -> None:
        self.user.erase()
        self.user = Owner(self.user.session, self.user.review)
