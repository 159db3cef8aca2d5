"""The routes: OpenAI's chat completions, responses and models, health, and the memories of users.

Who answers is decided by a class derived from `Routes`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers.utils import logging

from ..errors import TTTError, clipped, quoted
from ..util.messages import Message
from . import openapi
from .admission import AdmissionControl, Limits, Overloaded, Slot
from .auth import AuthMiddleware, DrainRequestMiddleware, error_response, read_body
from .browsers import SameOriginMiddleware
from .changes import FactChanges
from .memories import Memories
from .protocol import RETRY_AFTER, ApiError, ChatReply, ChatRequest, Reply
from .responses import ResponseReply, ResponseRequest, renamed
from .user import User
from .users import Users

logger = logging.get_logger(__name__)


class Answer(Protocol):
    """One request being answered."""

    headers: dict[str, str]  # of the reply

    async def submit(self, slot: Slot) -> None:
        """Begin. The slot is released when the answer has ended. Raises `ApiError`."""

    async def response(self) -> Response:
        """The answer as a whole."""

    def stream(self) -> AsyncIterator[str]:
        """The answer as server-sent events."""


class Consolidator(Protocol):
    """Who makes memory of what was said, and changes facts, beside the answers."""

    changes: FactChanges

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def interrupt(self) -> None:
        """A request has come."""


class Routes:
    """The route handlers, and what they share.

    Parameters
    ----------
    user_header : a header that names the user, too, set by an application that has authenticated them. None for none.
    """

    def __init__(
        self, name: str, users: Users, consolidator: Consolidator, limits: Limits, user_header: str | None = None
    ) -> None:
        self.name, self.users, self.consolidator = name, users, consolidator
        self.user_header = user_header
        self.limits, self.admission = limits, AdmissionControl(limits)
        self.memories = Memories(users, consolidator.changes, limits)

    def answer(self, request: Request, params: ChatRequest, reply: Reply, user: User | None) -> Answer:
        """What answers a request."""
        raise NotImplementedError

    def start(self) -> None:
        """The server is about to answer."""

    def close(self) -> None:
        """Begin no more answers."""

    def stop(self) -> None:
        """End the answers that are not finished."""

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.start()
        self.consolidator.start()
        try:
            yield
        finally:
            await run_in_threadpool(self.consolidator.stop)
            await run_in_threadpool(self.stop)
            self.users.close()

    async def chat_completions(self, request: Request) -> Response:
        params = await run_in_threadpool(ChatRequest.parse, await read_body(request, self.limits.max_body))
        return await self._answer(request, params, ChatReply(self.name, params.include_usage))

    async def create_response(self, request: Request) -> Response:
        asked = await run_in_threadpool(ResponseRequest.read, await read_body(request, self.limits.max_body))
        try:
            return await self._answer(request, await run_in_threadpool(asked.chat), ResponseReply(asked))
        except ApiError as error:
            error.param = renamed(error.param)
            raise

    async def _answer(self, request: Request, params: ChatRequest, reply: Reply) -> Response:
        if self.user_header is not None:
            sent = request.headers.get(self.user_header, "")
            params = params.by(sent.encode("latin-1").decode(errors="replace"))
        if params.model != self.name:
            raise ApiError(
                404, f"There is no model {quoted(params.model)} here, only {self.name!r}.", "model", "model_not_found"
            )
        try:
            slot = self.admission.admit(params.identity)
        except Overloaded as error:
            raise _rate_limited(str(error)) from None
        try:
            user = None if params.identity is None else await run_in_threadpool(self.users.get, params.identity)
            if user is not None and user.waiting > self.limits.max_unlearned:
                raise _rate_limited(
                    f"{user.waiting:,} messages of this user wait to become memory, at most "
                    f"{self.limits.max_unlearned:,} may. They are consolidated when the user is silent."
                )
            self.consolidator.interrupt()
            answer = self.answer(request, params, reply, user)
            await answer.submit(slot)
        except BaseException:
            slot.release()
            raise
        if not params.stream:
            return await answer.response()
        headers = {"Cache-Control": "no-store", **answer.headers}
        return StreamingResponse(answer.stream(), media_type="text/event-stream", headers=headers)

    def record(self, params: ChatRequest, user: User | None, messages: Sequence[Message], text: str) -> None:
        """Record a conversation and its answer; nothing where no user is named. Raises `ApiError`."""
        if user is None or params.identity is None:
            return
        try:
            self.users.record(params.identity, user, messages, text)
        except (OSError, TTTError) as error:
            logger.exception("A turn could not be recorded.")
            raise ApiError(500, "The answer could not be recorded; the server's log says why.") from error

    async def list_models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def get_model(self, request: Request) -> Response:
        if request.path_params["name"] != self.name:
            name = quoted(request.path_params["name"])
            raise ApiError(404, f"There is no model {name} here.", "model", "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "ttt_retrofit"}

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})


def _rate_limited(message: str) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(RETRY_AFTER)})


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = clipped(request.url.path, 200)
    return error_response(ApiError(error.status_code, f"{request.method} {path}: {error.detail}."))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _internal_error(request: Request, error: Exception) -> Response:
    """The message of the error is not sent: it may name paths."""
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return error_response(ApiError(500, "The server failed; its log says why."))


def application(service: Routes, key: str | None, origins: Sequence[str] = ()) -> Starlette:
    """The server as an ASGI application.

    Parameters
    ----------
    key : the API key; None requires none.
    origins : origins of web pages that may call it from a browser.
    """
    # Outside of the authentication: a browser's preflight request carries no key.
    cors = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
    )
    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/v1/models", service.list_models),
            Route("/v1/models/{name:path}", service.get_model),
            Route("/v1/chat/completions", service.chat_completions, methods=["POST"]),
            Route("/v1/responses", service.create_response, methods=["POST"]),
            Route("/v1/memories", service.memories.list_memories),
            Route("/v1/memories/{user:rest}", service.memories.handle, methods=["GET", "POST", "DELETE"]),
            Route("/openapi.json", openapi.document),
            Route("/docs", openapi.page),
        ],
        # With a key the origin is not checked: a foreign page has no key, and a proxy may ask for another host.
        middleware=[
            Middleware(DrainRequestMiddleware),
            *([cors] if origins else []),
            Middleware(AuthMiddleware, key=key),
            *([] if key else [Middleware(SameOriginMiddleware, allowed=origins)]),
        ],
        exception_handlers={
            HTTPException: _http_exception,
            ApiError: _api_error,
            ClientDisconnect: _client_disconnected,
            TTTError: _internal_error,
            Exception: _internal_error,
        },
        lifespan=service.lifespan,
    )
