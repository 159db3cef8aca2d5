"""The routes: OpenAI's chat completions and models, health, and the memories of a user."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers.utils import logging

from ..errors import InputError, TTTError, clipped, quoted
from ..memory.memory import Memory
from .answering import Answering
from .auth import Door, Lingering, body, refused
from .batch_generator import Ended, Work
from .browsers import SameOrigin
from .detokenizer import Spelling
from .identity import check_identity
from .keeper import Keeper
from .places import Full, Limits, Place, Places
from .protocol import ApiError, ChatRequest, Reply
from .sampling import Sampling
from .users import User, Users

logger = logging.get_logger(__name__)

RETRY_AFTER = 2  # seconds
SILENCE = 1.0  # seconds without news, after which it is looked whether anybody still listens


class Exchange:
    """One request being answered: the text, as it comes from the answering thread."""

    def __init__(self, service: Service, request: Request, asked: ChatRequest, user: User | None) -> None:
        self.service, self.request, self.asked, self.user = service, request, asked, user
        self.messages = asked.conversation()
        self.reply = Reply(service.name)
        self.text = ""
        self.prompt: list[int] = []
        self.ended: Ended | None = None
        self._told: asyncio.Queue[str | Ended | Exception] = asyncio.Queue()
        self._work: Work | None = None

    async def begin(self, place: Place) -> None:
        """Put it in the queue.

        Raises
        ------
        ApiError
            400 where the chat template refuses the messages, or the prompt is too long.
        """
        service, asked, told, loop = self.service, self.asked, self._told, asyncio.get_running_loop()
        model = service.answering.model
        memory = None if self.user is None else self.user.memory
        try:
            self.prompt = await run_in_threadpool(self._read, memory)
        except InputError as error:
            raise ApiError(400, str(error), "messages") from error
        most = min(asked.most or service.limits.max_new_tokens, service.limits.max_new_tokens)
        if model.longest is not None:  # the last token is written, and never read
            most = min(most, model.longest + 1 - len(self.prompt))
        self._work = Work(
            ids=self.prompt,
            memory=memory,
            sampling=Sampling.of(model, asked.temperature, asked.top_p, asked.seed),
            most=most,
            spelling=Spelling(service.answering.tokenizer, asked.stop or ()),
            tell=lambda news: loop.call_soon_threadsafe(told.put_nowait, news),
            place=place,
        )
        # A client that goes before the first piece never begins to listen.
        weakref.finalize(self, self._work.cancelled.set)
        service.answering.submit(self._work)

    def _read(self, memory: Memory | None) -> list[int]:
        """The tokens of the prompt. Raises ApiError where there are too many, before they are counted if it can be."""
        limits, messages = self.service.limits, self.messages
        size = sum(len(message["content"].encode()) for message in messages)
        if size > limits.max_text or len(messages) > limits.max_prompt:
            raise _too_long(
                f"{len(messages):,} messages of {size:,} bytes are a longer prompt than this server reads: at most "
                f"{limits.max_prompt:,} tokens, and {limits.max_text:,} bytes"
            )
        ids = self.service.answering.prompt(messages if memory is None else memory.with_notes(messages))
        learned = self.service.answering.model.longest
        if learned is not None and len(ids) > learned:
            raise _too_long(f"The prompt has {len(ids):,} tokens, and the model has learned {learned:,} positions")
        if len(ids) > limits.max_prompt:
            raise _too_long(f"The prompt has {len(ids):,} tokens; this server reads at most {limits.max_prompt:,}")
        return ids

    async def pieces(self) -> AsyncIterator[str]:
        """The text, and nothing ("") where there was none for a while; at its end the turn is recorded.

        Whoever stops listening stops the reading and the writing, too.
        """
        assert self._work is not None
        try:
            while self.ended is None:
                told = await self._news()
                if isinstance(told, InputError):
                    raise ApiError(400, str(told), "messages") from told
                if isinstance(told, Exception):
                    raise ApiError(500, "The answer failed; the server's log says why.") from told
                if isinstance(told, Ended):
                    self.ended = told
                else:
                    self.text += told
                    yield told
            if self.ended.reason == "cancelled":
                raise ApiError(503, "The server is being stopped.", headers={"Retry-After": str(RETRY_AFTER)})
            await run_in_threadpool(self._record)
        finally:
            self._work.cancelled.set()

    async def _news(self) -> str | Ended | Exception:
        try:
            async with asyncio.timeout(SILENCE):
                return await self._told.get()
        except TimeoutError:
            return ""

    def _record(self) -> None:
        identity = self.asked.identity
        if self.user is None or identity is None:
            return
        try:
            self.service.users.record(identity, self.user, self.messages, self.text)
        except (OSError, TTTError) as error:
            logger.exception("A turn could not be recorded.")
            raise ApiError(500, "The answer could not be recorded; the server's log says why.") from error

    async def whole(self) -> Response:
        with self.user or nullcontext():
            async for _ in self.pieces():
                if await self.request.is_disconnected():
                    raise ClientDisconnect
        assert self.ended is not None
        return JSONResponse(self.reply.whole(self.text, self.ended.reason, len(self.prompt), self.ended.tokens))

    async def events(self) -> AsyncIterator[str]:
        """Server-sent events. An error after the first one can only be told as one."""
        with self.user or nullcontext():
            try:
                yield _event(self.reply.piece({"role": "assistant", "content": ""}))
                async for piece in self.pieces():
                    yield _event(self.reply.piece({"content": piece})) if piece else ": keep-alive\n\n"
                assert self.ended is not None
                yield _event(self.reply.piece({}, self.ended.reason))
                if self.asked.include_usage:
                    yield _event(self.reply.total(len(self.prompt), self.ended.tokens))
                yield "data: [DONE]\n\n"
            except ApiError as error:
                yield _event(error.body())


def _later(why: str) -> ApiError:
    return ApiError(429, why, code="rate_limit_exceeded", headers={"Retry-After": str(RETRY_AFTER)})


def _too_long(what: str) -> ApiError:
    return ApiError(400, f"{what}. Send less of the conversation.", "messages", "context_length_exceeded")


def _event(document: dict[str, Any]) -> str:
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n"


class Service:
    """What the routes share."""

    def __init__(self, name: str, answering: Answering, users: Users, keeper: Keeper, limits: Limits) -> None:
        self.name, self.answering, self.users, self.keeper, self.limits = name, answering, users, keeper, limits
        self.places = Places(limits)

    @asynccontextmanager
    async def running(self, _: Starlette) -> AsyncIterator[None]:
        self.answering.start()
        self.keeper.start()
        try:
            yield
        finally:
            await run_in_threadpool(self.keeper.stop)
            await run_in_threadpool(self.answering.stop)
            self.users.close()

    async def complete(self, request: Request) -> Response:
        asked = await run_in_threadpool(ChatRequest.read, await body(request, self.limits.max_body))
        if asked.model != self.name:
            raise ApiError(
                404, f"There is no model {quoted(asked.model)} here, only {self.name!r}.", "model", "model_not_found"
            )
        try:
            place = self.places.take(asked.identity)
        except Full as error:
            raise _later(str(error)) from None
        try:
            user = None if asked.identity is None else await run_in_threadpool(self.users.get, asked.identity)
            if user is not None and user.waiting > self.limits.max_unlearned:
                raise _later(
                    f"{user.waiting:,} messages of this user wait to become memory, at most "
                    f"{self.limits.max_unlearned:,} may. They are consolidated when the user is silent."
                )
            exchange = Exchange(self, request, asked, user)
            await exchange.begin(place)
        except BaseException:
            place.free()
            raise
        if not asked.stream:
            return await exchange.whole()
        return StreamingResponse(
            exchange.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self.name:
            name = quoted(request.path_params["name"])
            raise ApiError(404, f"There is no model {name} here.", "model", "model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "ttt_retrofit"}

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def users_stored(self, request: Request) -> Response:
        found = await run_in_threadpool(self.users.stored)
        data = [{"id": identity, "object": "memory", "directory": name} for identity, name in found]
        return JSONResponse({"object": "list", "data": data})

    async def remembered(self, request: Request) -> Response:
        identity = self._known(request)
        user = await run_in_threadpool(self.users.get, identity)
        return JSONResponse({"id": identity, "object": "memory", **await run_in_threadpool(user.status)})

    async def erase(self, request: Request) -> Response:
        identity = self._known(request)
        await run_in_threadpool(self.users.erase, identity)
        return JSONResponse({"id": identity, "object": "memory.deleted", "deleted": True})

    def _known(self, request: Request) -> str:
        """The id in the address, of a user of whom something is stored."""
        if request.url.query:
            raise ApiError(
                400, f"A memory's address takes no query, found ?{request.url.query}. In a user id, write %3F for '?'.",
                "user",
            )  # fmt: skip
        try:
            identity = check_identity(request.path_params["user"])
        except InputError as error:
            raise ApiError(400, str(error), "user") from error
        if not self.users.known(identity):
            raise ApiError(404, f"Nothing is stored of a user {identity!r}.", "user")
        return identity


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refused(ApiError(error.status_code, f"{request.method} {clipped(request.url.path, 200)}: {error.detail}."))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return refused(error)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _failed(request: Request, error: Exception) -> Response:
    """An error of the operating system. Its message names paths, so it is not sent."""
    logger.error("%s %s: %s", request.method, request.url.path, error)
    return refused(ApiError(500, "The server failed; its log says why."))


class Anything(Convertor[str]):
    """The rest of an address, lines and all: Starlette's own `path` leaves a line break at the end away."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", Anything())


def application(service: Service, key: str | None, origins: Sequence[str] = ()) -> Starlette:
    """The server as an ASGI application. origins: of web pages that may call it from a browser."""
    # Before the door: a browser asks whether it may ask, and brings no key for that.
    pages = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST", "DELETE"], allow_headers=["*"]
    )
    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/v1/models", service.models),
            Route("/v1/models/{name:path}", service.model),
            Route("/v1/chat/completions", service.complete, methods=["POST"]),
            Route("/v1/memories", service.users_stored),
            Route("/v1/memories/{user:anything}", service.remembered),
            Route("/v1/memories/{user:anything}", service.erase, methods=["DELETE"]),
        ],
        # Whoever has the key is no stranger's page; and a proxy may ask for another host than the browser did.
        middleware=[
            Middleware(Lingering),
            *([pages] if origins else []),
            Middleware(Door, key=key),
            *([] if key else [Middleware(SameOrigin, allowed=origins)]),
        ],
        exception_handlers={
            HTTPException: _http_error,
            ApiError: _api_error,
            ClientDisconnect: _gone,
            TTTError: _failed,
            Exception: _failed,
        },
        lifespan=service.running,
    )
