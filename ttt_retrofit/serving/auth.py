"""Access: addresses, the API key, the requested host, the type and the size of a body."""

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

BODY_TIMEOUT = 30.0  # seconds for a body to arrive
DRAIN_TIMEOUT = 5.0  # seconds in which the rest of a request that was refused is received and discarded
PUBLIC_PATHS = ("/health", "/docs", "/openapi.json")  # need no key: they tell nothing of the model or its users


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


def error_response(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, headers=error.headers)


class DrainRequestMiddleware:
    """Middleware that ends a reply only after the request has been received, or after a few seconds.

    Where the connection was closed at once, a client that is still sending would see its own sending fail, and never
    the reply.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A client that sends "Expect: 100-continue" sends no body before it is told to.
        if scope["type"] != "http" or b"expect" in dict(scope["headers"]):
            await self.app(scope, receive, send)
            return
        received = False

        async def tracked_receive() -> Message:
            nonlocal received
            message = await receive()
            received = received or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def send_and_drain(message: Message) -> None:
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not last or received:
                await send(message)
                return
            await send({**message, "more_body": True})  # complete for a client that counts the bytes of the reply
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    while not received:
                        await tracked_receive()
            await send({"type": "http.response.body", "body": b""})

        await self.app(scope, tracked_receive, send_and_drain)


class AuthMiddleware:
    """Middleware that requires the API key. A server without a key answers only requests for a local host.

    A page in a browser on this machine can make its own name resolve to 127.0.0.1 (DNS rebinding). It cannot send
    another `Host` than its own name.
    """

    def __init__(self, app: ASGIApp, key: str | None) -> None:
        self.app, self.key = app, key.encode() if key else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            error = self._check(dict(scope["headers"]))
            if error is not None:
                await error_response(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _check(self, headers: dict[bytes, bytes]) -> ApiError | None:
        if self.key is None:
            host = headers.get(b"host", b"").decode("latin-1")
            if not is_loopback(_without_port(host)):
                return ApiError(403, f"The host {quoted(host)} is not one of this server's. Ask for localhost.")
            return None
        scheme, _, given = headers.get(b"authorization", b"").strip().partition(b" ")
        # Compared in constant time: the time of the reply tells nothing about the key.
        matches = hmac.compare_digest(given.strip(), self.key)
        if scheme.lower() != b"bearer" or not matches:
            message = "The API key is wrong." if scheme else "No API key was given: Authorization: Bearer KEY."
            return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        return None


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request, which must be JSON. A browser asks the server before it sends JSON to another origin.

    Raises
    ------
    ApiError
        415 for another type, 413 for more than `max_bytes`, 408 for a body that does not arrive.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"Content-Type is {clipped(kind, 100) or 'missing'}, expected application/json.")
    too_large = ApiError(413, f"The body is larger than {max_bytes:,} bytes.")
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > max_bytes:
        raise too_large
    read = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for part in request.stream():
                read += part
                if len(read) > max_bytes:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {BODY_TIMEOUT:.0f} seconds.") from None
    return bytes(read)
