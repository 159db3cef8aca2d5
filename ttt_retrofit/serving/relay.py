"""A request that one process receives and another answers: whose it is, what is passed on, what is replied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from ..errors import InputError
from ..util.files import parsed
from .directories import directory_name
from .memories import ROOT, split_address

PASSED_ON = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server"),
)  # of an ASGI scope: values that can be sent to another process


def passed_on(scope: Scope) -> dict[str, Any]:
    """What of a scope the other process is given."""
    return {key: scope[key] for key in PASSED_ON if key in scope}


def directory_of_request(request: Request, body: bytes, user_header: str | None) -> str:
    """The name of the directory of the user whose request it is; "" where it names none, or badly.

    It only decides which replica is asked; that replica reads the request for itself.
    """
    if request.scope["raw_path"].startswith(ROOT):
        said: Any = split_address(request)[0]
    else:
        try:
            document = parsed(body or b"{}")
        except ValueError:
            return ""
        sent = request.headers.get(user_header, "") if user_header else ""
        named = document if isinstance(document, dict) else {}
        said = sent.encode("latin-1").decode(errors="replace") or named.get("user") or named.get("safety_identifier")
    try:
        return directory_name(said) if isinstance(said, str) else ""
    except InputError:
        return ""


async def replies(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[Message, None]:
    """What an ASGI application sends for a request whose body has been read."""
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    unread = [body]

    async def receive() -> Message:
        if not unread:
            await asyncio.Event().wait()  # a client that disconnects ends the iteration
        return {"type": "http.request", "body": unread.pop(), "more_body": False}

    async def run() -> None:
        try:
            await app({**scope, "state": {}}, receive, sent.put)
        finally:
            sent.put_nowait(None)

    task = asyncio.create_task(run())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await task  # raises what the application raised
    finally:
        task.cancel()
