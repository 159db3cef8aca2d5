"""The facts of users behind a server that `ttt-retrofit serve` started."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import httpx

from ..chat.fact_change import FactChange
from ..errors import InputError, quoted
from .fact_access import Changed, Facts, Fields

POLL = 0.1  # seconds
PAGE = 1000  # facts of one reply


class ServedFacts(Facts):
    """Asks a server.

    Parameters
    ----------
    url : such as http://127.0.0.1:8000; a "/v1" at its end is no part of it.
    key : its API key.
    """

    def __init__(self, url: str, key: str | None = None, client: httpx.Client | None = None) -> None:
        self._url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = client or httpx.Client(timeout=60)

    def _ask(self, method: str, user: str | None, *behind: str, **request: Any) -> Any:
        """The reply, None for 404. Raises `InputError` with the server's own words, and where none can be reached."""
        if user is None:
            raise InputError("A server has several users. Name one.")
        return self._send(method, quote(user, safe=""), *behind, **request)

    def _send(self, method: str, *behind: str, **request: Any) -> Any:
        address = "/".join([self._url, "v1", "memories", *behind])
        try:
            reply = self._client.request(method, address, headers=self._headers, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise InputError(f"The server {self._url} cannot be reached: {error}. Is it running?") from error
        try:
            said = reply.json()
        except ValueError:
            said = None
        if not isinstance(said, dict) or (reply.is_error and not isinstance(said.get("error"), dict)):
            raise InputError(
                f"{address} answered {reply.status_code}: {quoted(reply.text)}; expected what a server that "
                "`ttt-retrofit serve` started answers. Is it the right address?"
            )
        if reply.status_code == 404 and method == "GET":
            return None
        if reply.is_error:
            raise InputError(f"The server answered {reply.status_code}: {said['error'].get('message')}")
        return said

    def facts(self, user: str | None) -> list[Fields]:
        found: list[Fields] = []
        while True:
            after = {"after": found[-1]["id"]} if found else {}
            page = self._ask("GET", user, "facts", params={"status": "all", "limit": PAGE, **after})
            found += page["data"] if page else []
            if not page or not page["has_more"]:
                return found

    def search(self, user: str | None, query: str, most: int) -> list[Fields]:
        page = self._ask("GET", user, "facts", params={"query": query, "limit": min(most, PAGE)})
        return list(page["data"]) if page else []

    def tell(self, user: str, messages: Sequence[Fields]) -> None:
        self._ask("POST", user, "messages", json={"messages": list(messages)})

    def change(self, user: str | None, change: FactChange) -> Changed:
        if change.text is None:
            purge = {"purge": str(change.purge).lower()}
            waiting = self._ask("DELETE", user, "facts", *change.ids, params=purge)
        else:
            body = {"text": change.text, "date": change.date, "purge": change.purge}
            waiting = self._ask("POST", user, "facts", *change.ids, json=body)
        while waiting is not None and waiting["status"] in ("waiting", "working"):
            time.sleep(POLL)
            waiting = self._ask("GET", user, "changes", waiting["id"])
        if waiting is None:
            return Changed(False, "it is not known anymore.")
        return Changed(waiting["status"] == "accepted", waiting["reason"], waiting["fact"])

    def erase(self, user: str) -> None:
        if self._ask("GET", user) is not None:
            self._ask("DELETE", user)

    def users(self) -> list[str]:
        return [one["id"] for one in (self._send("GET") or {"data": []})["data"] if one["id"] is not None]

    def close(self) -> None:
        self._client.close()
