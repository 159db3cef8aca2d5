"""Protection against web pages of other origins: what they may make a browser send or show.

A browser says where a request comes from, and no page can change that. Other programs send no origin.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .auth import error_response
from .protocol import ApiError


class SecurityHeadersMiddleware:
    """Middleware that adds a content security policy and `X-Frame-Options` to every reply.

    A page then loads nothing from other machines, whatever a model writes into it. No other page can show it in a
    frame, where a click meant for that page would press a button of this one.
    """

    POLICY = (
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", self.POLICY),
                    (b"x-frame-options", b"DENY"),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_with_headers)


class SameOriginMiddleware:
    """Middleware that refuses requests from pages of another origin. Another port of this machine is another origin.

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
                host = headers.get("host")
                message = f"{foreign} asked for {host}. A page may only ask the server that it came from."
                await error_response(ApiError(403, message))(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        """Who asks, if it is a page of another origin than the requested host; else None."""
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None:
            allowed = (f"http://{host}", f"https://{host}", *self.allowed)
            return None if origin in allowed or "*" in allowed else f"The origin {origin[:100]!r}"
        # Images and scripts come without an origin, and so does a link that is followed. A link changes nothing.
        navigates = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not navigates:
            return "A page of another origin"
        return None
