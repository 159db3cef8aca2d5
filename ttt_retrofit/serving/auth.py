"""Access: addresses, the key, the requested host, the size of a body."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ConfigError, clipped, quoted
from .protocol import ApiError

BODY_SECONDS = 30.0  # for a body to arrive
LINGER = 5.0  # seconds in which the rest of a request that was refused is heard, and thrown away
OPEN = ("/health",)  # without a key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it. A name other than localhost may resolve to anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _without_port(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets that do not match
        return ""


def check_exposure(host: str, key: str | None, origins: Sequence[str] = ()) -> None:
    """Raise `ConfigError` if strangers, or any web page, could reach a server without a key."""
    if not key and "*" in origins:
        raise ConfigError(
            "--allow-origin '*' lets every web page that is open on this machine talk to every user's memory, and no "
            "API key is set. Name the origins, such as http://localhost:3000, or give --api-key."
        )
    if not key and not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and no API key is set: whoever reaches it could talk "
            "to every user's memory. Give --api-key (or TTT_RETROFIT_API_KEY), or --host 127.0.0.1."
        )


def refused(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers)


class Secluded:
    """Middleware that lets a page load nothing from other machines, whatever a model writes into it, and lets no other
    page show it in a frame, where a click meant for that page would press a button of this one.
    """

    POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; form-action 'self'; frame-ancestors 'none'"

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", self.POLICY),
                    (b"x-frame-options", b"DENY"),
                ]
            await send(message)

        await self.app(scope, receive, with_policy)


class Lingering:
    """Middleware that hears a client out: a reply that comes before the request has been sent is ended only after it.

    Where the connection was closed at once, such a client would see its own sending fail, and never the reply.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or b"expect" in dict(scope["headers"]):  # such a client waits to be asked to go on
            await self.app(scope, receive, send)
            return
        heard = False

        async def hear() -> Message:
            nonlocal heard
            message = await receive()
            heard = heard or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or heard:
                await send(message)
                return
            await send({**message, "more_body": True})  # it is whole for whoever counts its bytes
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER):
                    while not heard:
                        await hear()
            await send({"type": "http.response.body", "body": b""})

        await self.app(scope, hear, answer)


class Door:
    """Middleware that asks for the key; without one, for a local host, so that no web page can pose as local.

    A page in a browser on this machine can make its own name resolve to 127.0.0.1; what it cannot do is ask for
    another host than its own.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app, self.key = app, key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            error = self._objection(dict(scope["headers"]))
            if error is not None:
                await refused(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _objection(self, headers: dict[bytes, bytes]) -> ApiError | None:
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            if not is_loopback(_without_port(host)):
                return ApiError(403, f"The host {quoted(host)} is not one of this server's. Ask for localhost.")
            return None
        scheme, _, given = headers.get(b"authorization", b"").strip().partition(b" ")
        # Compared in constant time, so that answering tells nothing of how much was right.
        right = hmac.compare_digest(given.strip(), self.key)
        if scheme.lower() != b"bearer" or not right:
            said = "The API key is wrong." if scheme else "No API key was given: Authorization: Bearer KEY."
            return ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


async def body(request: Request, most: int) -> bytes:
    """The body of a request, which must be JSON: a web page cannot send that to another origin unasked.

    Raises
    ------
    ApiError
        415, 413 or 408.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type is {clipped(kind, 100) or 'missing'}, expected application/json.")
    too_large = ApiError(413, f"The body is larger than {most:,} bytes.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > most:
        raise too_large
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                read += part
                if len(read) > most:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:.0f} seconds.") from None
    return bytes(read)
