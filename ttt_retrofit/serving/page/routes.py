"""The routes of a page: its files, its API, and the facts of its user below /v1/memories as of any user."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...errors import TTTError
from ..admission import Limits
from ..auth import AuthMiddleware, error_response, read_body
from ..browsers import SameOriginMiddleware, SecurityHeadersMiddleware
from ..memories import Memories
from ..protocol import ApiError, StrictModel
from .controller import PageController

ASSETS = Path(__file__).parent / "assets"
MAX_BODY = 1 << 20  # bytes of a request
mimetypes.add_type("text/javascript", ".js")  # a browser runs no module of another type, and some systems say one


class Said(StrictModel):
    """A message; with a place it is asked in the place of an earlier one."""

    text: str
    place: int | None = None


class Kept(StrictModel):
    """The texts of the facts that are kept, by id."""

    texts: dict[str, str] = Field(default_factory=dict)


class Version(StrictModel):
    """The number of a version; 0 is before the first."""

    version: int = Field(ge=0)


class Named(StrictModel):
    """Entries of the memory."""

    names: list[str] = Field(default_factory=list)


class Routes:
    """The handlers of the API."""

    def __init__(self, controller: PageController, title: str) -> None:
        self.controller, self.title = controller, title

    async def page(self, request: Request) -> Response:
        return FileResponse(ASSETS / "index.html", headers={"Cache-Control": "no-cache"})

    async def state(self, request: Request) -> Response:
        return JSONResponse({"title": self.title, **await run_in_threadpool(self.controller.state)})

    async def begin_chat(self, request: Request) -> Response:
        return self._chat(self.controller.owner.chats.begin().id)

    async def get_chat(self, request: Request) -> Response:
        return self._chat(request.path_params["chat"])

    def _chat(self, name: str) -> Response:
        chat = self.controller.owner.chats.get(name)
        return JSONResponse(chat.to_dict(self.controller.session.messages))

    async def remove_chat(self, request: Request) -> Response:
        await run_in_threadpool(self.controller.remove, request.path_params["chat"])
        return JSONResponse({})

    async def send(self, request: Request) -> Response:
        """The answer, as lines of JSON: pieces of text, and an error at the end if there was one."""
        said, chat = Said.read(await read_body(request, MAX_BODY)), request.path_params["chat"]
        pieces = self.controller.send(chat, said.text, said.place)
        return StreamingResponse(_lines(pieces), media_type="application/x-ndjson")

    async def stop(self, request: Request) -> Response:
        self.controller.stop()
        return JSONResponse({})

    async def keep(self, request: Request) -> Response:
        self.controller.keep(Kept.read(await read_body(request, MAX_BODY)).texts)
        return JSONResponse({})

    async def versions(self, request: Request) -> Response:
        return JSONResponse({"data": await run_in_threadpool(self.controller.owner.versions)})

    async def rollback(self, request: Request) -> Response:
        version = Version.read(await read_body(request, MAX_BODY)).version
        await run_in_threadpool(self.controller.owner.rollback, version)
        return JSONResponse({})

    async def forget(self, request: Request) -> Response:
        names = Named.read(await read_body(request, MAX_BODY)).names
        await run_in_threadpool(self.controller.owner.forget, names)
        return JSONResponse({})


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    try:
        for piece in pieces:
            yield _line({"piece": piece})
    except Exception as error:  # the status was sent already
        yield _line({"error": _told(error)})


def _line(document: dict[str, Any]) -> str:
    return f"{json.dumps(document, ensure_ascii=False)}\n"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


async def _failed(request: Request, error: Exception) -> Response:
    """Whoever looks at the page owns the machine: errors are told as they are."""
    if isinstance(error, ApiError):
        return error_response(error)
    if isinstance(error, HTTPException):
        return error_response(ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}."))
    return error_response(ApiError(400 if isinstance(error, TTTError) else 500, _told(error)))


def application(controller: PageController, title: str) -> Starlette:
    """The page as an ASGI application. It answers under no other host's name, in no frame, and to no other page."""
    routes = Routes(controller, title)
    memories = Memories(controller.owners, controller.changes, Limits())
    return Starlette(
        routes=[
            Route("/", routes.page),
            Mount("/assets", StaticFiles(directory=ASSETS)),
            Route("/page/state", routes.state),
            Route("/page/chats", routes.begin_chat, methods=["POST"]),
            Route("/page/chats/{chat}", routes.get_chat),
            Route("/page/chats/{chat}", routes.remove_chat, methods=["DELETE"]),
            Route("/page/chats/{chat}/messages", routes.send, methods=["POST"]),
            Route("/page/stop", routes.stop, methods=["POST"]),
            Route("/page/review", routes.keep, methods=["POST"]),
            Route("/page/versions", routes.versions),
            Route("/page/rollback", routes.rollback, methods=["POST"]),
            Route("/page/forget", routes.forget, methods=["POST"]),
            Route("/v1/memories/{user:rest}", memories.handle, methods=["GET", "POST", "DELETE"]),
        ],
        middleware=[
            Middleware(AuthMiddleware, key=None),
            Middleware(SameOriginMiddleware),
            Middleware(SecurityHeadersMiddleware),
        ],
        exception_handlers={HTTPException: _failed, ApiError: _failed, TTTError: _failed, OSError: _failed},
    )
