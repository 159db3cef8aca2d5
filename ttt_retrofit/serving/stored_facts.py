"""The facts of users in a store of this machine. What only reads needs no model, and goes on while a server runs."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ..chat.all_facts import shown
from ..chat.fact_change import FactChange
from ..chat.session import ChatSession
from ..config import TTTConfig
from ..errors import ConfigError, InputError
from ..memory.facts import Fact
from ..memory.search import search
from ..model.auto import wrap
from ..util.settings import did_you_mean
from .directories import directory_name, write_identity
from .fact_access import Changed, Facts, Fields
from .stores import changing, erase_one, facts_in, find_directory, users_in
from .user import User

POLL = 0.1  # seconds

OpenSession = Callable[[Path], ChatSession]


def session_opener(model: Any, tokenizer: Any = None, **settings: Any) -> OpenSession:
    """What opens sessions with a converted model, or with the name of one to convert, which is loaded with the first.

    Parameters
    ----------
    tokenizer : None is the one of the model's name.
    settings : of every `ChatSession`, such as config= or writer=.

    Raises
    ------
    ConfigError
        For a setting of another name.
    """
    known = inspect.signature(ChatSession).parameters.keys() - {"model", "tokenizer", "store", "keep_turns"}
    unknown = sorted(settings.keys() - known)
    if unknown:
        raise ConfigError(f"Sessions take no {unknown}{did_you_mean(unknown, known)}. They take {sorted(known)}.")

    @cache
    def loaded() -> tuple[Any, Any]:
        if not isinstance(model, str):
            return model, tokenizer
        return wrap(model, TTTConfig(learn_from="none")), tokenizer or AutoTokenizer.from_pretrained(model)

    # Nothing is answered here, so turns need not be known in words before they are memory.
    return lambda path: ChatSession(*loaded(), path, keep_turns=0, **{"note_tokens": 0, **settings})


class StoredFacts(Facts):
    """In a directory of one user, or of several, as a server, chats or `StoredFacts` itself made it.

    Parameters
    ----------
    open_session : opens the session in a user's directory, for one change.
    keep_versions : versions of a memory that stay on disk after a change; None keeps all.

    Raises
    ------
    InputError
        When the store is a file.
    """

    def __init__(
        self, store: str | os.PathLike[str], open_session: OpenSession, keep_versions: int | None = None
    ) -> None:
        self.store, self._open, self._keep = Path(store), open_session, keep_versions
        if self.store.is_file():
            raise InputError(f"{self.store} is a file; expected a directory, which may be new.")
        self._one = threading.Lock()  # changes wait for each other: each begins with the memory after the one before

    def _facts(self, user: str | None) -> list[Fact]:
        directory = find_directory(self.store, user) if self.store.is_dir() else None
        return [] if directory is None else facts_in(directory)

    @contextmanager
    def opened(self, user: str | None) -> Iterator[ChatSession]:
        """A session for one change. It may be the user's first.

        Raises
        ------
        InputError
            When a server is using the store.
        """
        self.store.mkdir(parents=True, exist_ok=True, mode=0o700)
        known = find_directory(self.store, user)
        directory = known or self.store / directory_name(str(user))
        with self._one, changing(directory):
            session = self._open(directory)
            if known is None:
                write_identity(directory, str(user))
            yield session
            if self._keep is not None:
                session.store.prune(self._keep)

    def facts(self, user: str | None) -> list[Fields]:
        return [fact.to_dict() for fact in self._facts(user)]

    def search(self, user: str | None, query: str, most: int) -> list[Fields]:
        found = search(shown(self._facts(user), "known"), query)
        return [{**fact.to_dict(), "score": score} for fact, score in found[:most]]

    def tell(self, user: str, messages: Sequence[Fields]) -> list[Fields]:
        before = {fact["id"] for fact in self.facts(user)}
        answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        with self.opened(user) as session, closing(User(session)) as telling:
            telling.record(messages[:-1] if answer else messages, answer)
            while telling.begin() and telling.settle() is None:
                time.sleep(POLL)
        return [fact for fact in self.facts(user) if fact["id"] not in before]

    def change(self, user: str | None, change: FactChange) -> Changed:
        with self.opened(user) as session:
            report = session.change(change)
            return Changed(report.accepted, report.reason, change.made(session.facts()) if report.accepted else None)

    def erase(self, user: str) -> None:
        if self.store.is_dir() and find_directory(self.store, user) is not None:
            erase_one(self.store, user)

    def users(self) -> list[str]:
        return list(users_in(self.store))

    def close(self) -> None:
        """Nothing is held between two changes."""
