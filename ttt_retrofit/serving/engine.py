"""`Engine`: a server with OpenAI's protocol that runs the base with LoRA adapters beside it, and answers for a gateway.

Adapters are written to a directory that it reads. One adapter holds entries of one user's memory, and is named by its
user and by what it holds: one that is loaded is never another one than is asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import httpx
from transformers.utils import logging

from ..errors import TTTError, clipped
from ..memory.entry import Entry
from ..memory.memory import Memory
from ..util.files import private_directory
from .directories import DIRECTORY_NAME

logger = logging.get_logger(__name__)

CONNECT = 5.0  # seconds in which an engine must take a connection
LOAD = 60.0  # seconds in which it must load an adapter
RANK = 16  # of an adapter, at most, when nothing else is said


class EngineError(Exception):
    """An engine that cannot be reached, or does not do what it was asked."""


class Engine:
    """One engine.

    Parameters
    ----------
    url : of its server, without /v1.
    headers : of every request to it.
    model : what it calls the base.
    root : what it was started with: the name or directory of the base.
    adapters : directory for the adapters, which it reads under the same path.
    rank : largest rank of an adapter.
    """

    kind: str  # as `--engine-kind` says it
    owner: str  # as it signs its models

    def __init__(
        self, url: str, headers: dict[str, str], model: str, root: str, adapters: Path, rank: int = RANK
    ) -> None:
        self.url, self.headers, self.model, self.root = url, headers, model, root
        self.adapters, self.rank = private_directory(adapters).resolve(), rank
        self._lock = threading.Lock()
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(LOAD, connect=CONNECT))

    def plain(self) -> dict[str, Any]:
        """Fields of a request that the base answers alone."""
        return {"model": self.model}

    def speaking(self, user: str, memory: Memory) -> dict[str, Any] | None:
        """Fields of a request in which these entries of a user's memory speak. An adapter is loaded if need be.

        Parameters
        ----------
        user : the name of the user's directory.
        memory : the entries that speak, at least one.

        Returns
        -------
        None where the engine loads no adapter while it runs, and has not got this one.

        Raises
        ------
        EngineError
            When the engine cannot be reached, or refuses the adapter.
        ConfigError
            For an adapter that it could not load.
        """
        raise NotImplementedError

    def update(self, user: str, memory: Memory | None) -> None:
        """A user's memory is another one now: write and load an adapter for each of its entries, delete all others.

        Raises what `speaking` raises.
        """
        entries = [] if memory is None else alone(memory)
        self.forget(user, [named(user, one) for one in entries])
        for one in entries:
            self.speaking(user, one)

    def follow(self, user: str, memory: Memory | None) -> None:
        """As `update`. What fails is logged: a request for which an adapter is missing loads it."""
        try:
            self.update(user, memory)
        except (EngineError, TTTError) as error:
            logger.error("The adapters of %s are not up to date: %s", user, error)

    def clean(self, known: Callable[[str], Memory | None]) -> None:
        """Delete adapters of users who are gone, or whose memory is another one since. known : a user's memory."""
        for user in self.users():
            try:
                memory = known(user)
                self.forget(user, [] if memory is None else [named(user, one) for one in alone(memory)])
            except (EngineError, TTTError) as error:
                logger.error("The adapters of %s are not up to date: %s", user, error)

    def forget(self, user: str, kept: Collection[str] = ()) -> None:
        """Delete the adapters of a user, but for those of some names. Raises `EngineError`."""
        raise NotImplementedError

    def users(self) -> set[str]:
        """Of whom there are adapters."""
        raise NotImplementedError

    def lost(self, fields: dict[str, Any]) -> bool:
        """Note that the engine does not know the adapter of a request. Returns whether it may be given it again."""
        return False

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, unknown: bool = False) -> Any:
        """The JSON or the text that the engine answers. Raises `EngineError`, with `unknown` not for a 404."""
        return asked(self._client, self.url, method, path, body, unknown)


def asked(
    client: httpx.Client, url: str, method: str, path: str, body: dict[str, Any] | None = None, unknown: bool = False
) -> Any:
    """The JSON or the text at an address of an engine. Raises `EngineError`."""
    try:
        reply = client.request(method, f"{url}{path}", json=body)
    except httpx.TransportError as error:
        raise EngineError(unreachable(url, error)) from error
    if reply.is_error and not (unknown and reply.status_code == 404):
        raise EngineError(f"The engine at {url} answers {method} {path} with {reply.status_code}: {said_in(reply)}")
    try:
        return reply.json()
    except ValueError:
        return reply.text


def unreachable(url: str, error: Exception) -> str:
    reason = clipped(str(error), 200) or type(error).__name__
    return (
        f"The engine at {url} cannot be reached ({reason}). Expected a server with OpenAI's protocol there. Start it, "
        "or give its address with --engine."
    )


def said_in(reply: httpx.Response) -> str:
    """What an error of an engine says, in one of the shapes that engines use."""
    try:
        said = reply.json()
    except ValueError:
        return clipped(reply.text, 500)
    inner = said.get("error", said) if isinstance(said, dict) else said
    message = inner.get("message") or inner.get("detail") if isinstance(inner, dict) else inner
    return clipped(message if isinstance(message, str) else repr(said), 500)


def named(user: str, memory: Memory) -> str:
    """The name of the adapter of these entries. Adapters of one name are the same."""
    digest = hashlib.sha256("\n".join(entry.digest for entry in memory.entries).encode()).hexdigest()
    return f"{user}-{digest[:16]}"


def owner_of(name: str) -> str | None:
    """The user whose adapter is called so; None where it is none of a gateway's."""
    user, _, digest = name.partition("-")
    return user if DIRECTORY_NAME.fullmatch(user) and digest else None


def only(memory: Memory, entries: Sequence[Entry]) -> Memory:
    """A memory of some of its entries."""
    return dataclasses.replace(memory, entries=tuple(entries), report=None)


def alone(memory: Memory) -> list[Memory]:
    """A memory of each entry."""
    return [only(memory, [entry]) for entry in memory.entries]
