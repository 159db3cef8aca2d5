"""The facts of users, wherever they are: in a store of this machine, or behind a server."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import httpx
from transformers import AutoTokenizer

from ..chat.fact_change import FactChange
from ..chat.session import ChatSession
from ..config import TTTConfig
from ..consolidation.facts.found import search
from ..errors import ConfigError, InputError
from ..model.auto import wrap
from .users import User, Users

POLL = 0.1  # seconds
PAGE = 1000  # facts of one reply of a server
Fields = dict[str, Any]


class Facts(Protocol):
    """The facts of users, wherever they are. A fact is a dictionary, as `Fact.to_dict` gives it."""

    def facts(self, user: str) -> list[Fields]:
        """Of every status, oldest first."""

    def search(self, user: str, query: str, most: int) -> list[Fields]:
        """Current ones with a "score", best first."""

    def tell(self, user: str, messages: list[Fields]) -> list[Fields] | None:
        """Consolidate messages. Gives the new facts; None where that happens later."""

    def change(self, user: str, change: FactChange) -> None:
        """Raises `ConfigError` where the change is refused, with the reason."""

    def erase(self, user: str) -> None:
        """Everything of a user."""

    def users(self) -> list[str]:
        """The ids of all users."""

    def close(self) -> None:
        """End their use."""


class StoredFacts:
    """In a store as `ttt-retrofit serve --store` has it. One process at a time may use it.

    Parameters
    ----------
    model : a converted model, or the name of one to convert.
    tokenizer : None is the one of the model's name.
    settings : of every `ChatSession`, such as config= or writer=.
    """

    def __init__(self, store: str | os.PathLike[str], model: Any, tokenizer: Any = None, **settings: Any) -> None:
        if isinstance(model, str):
            tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
            model = wrap(model, TTTConfig(learn_from="none"))

        def session(path: Path) -> ChatSession:
            return ChatSession(model, tokenizer, path, keep_turns=0, **settings)

        self._users = Users(Path(store), session)

    def _user(self, user: str) -> User | None:
        return self._users.get(user) if self._users.known(user) else None

    def facts(self, user: str) -> list[Fields]:
        found = self._user(user)
        memory = None if found is None else found.memory
        return [] if memory is None else [fact.to_dict() for fact in memory.facts(None)]

    def search(self, user: str, query: str, most: int) -> list[Fields]:
        found = self._user(user)
        memory = None if found is None else found.memory
        scored = [] if memory is None else search(memory.facts(), query)
        return [{**fact.to_dict(), "score": score} for fact, score in scored[:most]]

    def tell(self, user: str, messages: list[Fields]) -> list[Fields] | None:
        before = {fact["id"] for fact in self.facts(user)}
        found = self._users.get(user)
        answer = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
        self._users.record(user, found, messages[:-1] if answer else messages, answer)
        found.begin()
        while found.consolidating() and found.settle() is None:
            time.sleep(POLL)
        return [fact for fact in self.facts(user) if fact["id"] not in before]

    def change(self, user: str, change: FactChange) -> None:
        report = self._users.get(user).change(change, lambda progress: None)
        if report is not None and not report.accepted:
            raise ConfigError(f"The change was refused: {report.reason}")

    def erase(self, user: str) -> None:
        self._users.erase(user)

    def users(self) -> list[str]:
        return [user for user, _ in self._users.stored() if user is not None]

    def close(self) -> None:
        """Let another process use the store."""
        self._users.close()


class ServedFacts:
    """Of a server that `ttt-retrofit serve` started.

    Parameters
    ----------
    url : of the server, such as http://127.0.0.1:8000; a "/v1" at its end is no part of it.
    key : its API key.
    """

    def __init__(self, url: str, key: str | None = None, client: httpx.Client | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client or httpx.Client(timeout=60)

    def _ask(self, method: str, user: str | None, *behind: str, **request: Any) -> Any:
        """Raises `InputError` with the server's own words, and httpx's errors where it cannot be reached."""
        parts = [self._url, "v1", "memories", *([] if user is None else [quote(user, safe="")]), *behind]
        reply = self._client.request(method, "/".join(parts), headers=self._headers, **request)
        if reply.status_code == 404 and method != "POST":
            return None
        if reply.is_error:
            raise InputError(f"The server answered {reply.status_code}: {reply.text}")
        return reply.json()

    def facts(self, user: str) -> list[Fields]:
        found: list[Fields] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self._ask("GET", user, "facts", params={"status": "all", "limit": PAGE, **after})
            found += page["data"] if page else []
            if not page or not page["has_more"]:
                return found

    def search(self, user: str, query: str, most: int) -> list[Fields]:
        page = self._ask("GET", user, "facts", params={"query": query, "limit": min(most, PAGE)})
        return list(page["data"]) if page else []

    def tell(self, user: str, messages: list[Fields]) -> list[Fields] | None:
        self._ask("POST", user, "messages", json={"messages": messages})
        return None

    def change(self, user: str, change: FactChange) -> None:
        if change.text is None:
            purge = {"purge": str(change.purge).lower()}
            waiting = self._ask("DELETE", user, "facts", *change.ids, params=purge)
        else:
            body = {"text": change.text, "date": change.date}
            waiting = self._ask("POST", user, "facts", *change.ids, json=body)
        while waiting is not None and waiting["status"] in ("waiting", "working"):
            time.sleep(POLL)
            waiting = self._ask("GET", user, "changes", waiting["id"])
        if waiting is None or waiting["status"] != "accepted":
            reason = "it is not known anymore." if waiting is None else waiting["reason"]
            raise ConfigError(f"The change was refused: {reason}")

    def erase(self, user: str) -> None:
        self._ask("DELETE", user)

    def users(self) -> list[str]:
        return [one["id"] for one in self._ask("GET", None)["data"] if one["id"] is not None]

    def close(self) -> None:
        self._client.close()
