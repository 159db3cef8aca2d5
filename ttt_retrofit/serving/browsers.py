"""What a page of somebody else may make a browser send, and is refused: requests across origins, and uploads."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import body, refused
from .protocol import ApiError


class SameOrigin:
    """Middleware that refuses what another origin's page asks for, another port of this machine's among them.

    A browser says where a request comes from, and no page can change it; other programs say nothing, and are served.

    Parameters
    ----------
    allowed : other origins that may ask, such as http://localhost:3000; "*" is any.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str] = ()) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            foreign = self._foreign(scope, headers)
            if foreign is not None:
                said = f"{foreign} asked for {headers.get('host')}. A page may only ask the server that it came from."
                await refused(ApiError(403, said))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        """Who asks, where it is a page of another origin than the host that is asked."""
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None:
            allowed = (f"http://{host}", f"https://{host}", *self.allowed)
            return None if origin in allowed or "*" in allowed else f"The origin {origin[:100]!r}"
        # Without an origin come images and scripts of a page, and whoever follows a link, which changes nothing.
        navigates = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            return "A page of another origin"
        return None


class JsonOnly:
    """Middleware that lets in bodies of JSON up to a size, read whole, and no others: files are never uploaded.

    Parameters
    ----------
    most : bytes of a body.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        try:
            read = await body(Request(scope, receive), self.most)
        except ApiError as error:
            await refused(error)(scope, receive, send)
            return
        told = False

        async def receive_read() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": read, "more_body": False}

        await self.app(scope, receive_read, send)
