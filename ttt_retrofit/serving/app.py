"""The routes: OpenAI's chat completions, responses and models, health, and the memories of users."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
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

from ..errors import InputError, TTTError, clipped, quoted
from . import openapi
from .admission import AdmissionControl, Limits, Overloaded, Slot
from .auth import AuthMiddleware, DrainRequestMiddleware, error_response, read_body
from .batch_generator import Finished, GenerationRequest
from .browsers import SameOriginMiddleware
from .changes import FactChanges
from .detokenizer import IncrementalDetokenizer
from .memories import Memories
from .protocol import ApiError, ChatReply, ChatRequest, Reply
from .responses import ResponseReply, ResponseRequest, renamed
from .sampling import Sampling
from .scheduler import Scheduler
from .tools import AnswerReader, Delta, calls_in_answer, response_template
from .user import User
from .users import Users

logger = logging.get_logger(__name__)

RETRY_AFTER = 2  # seconds
KEEP_ALIVE = 1.0  # seconds without text, after which a keep-alive is sent and the client's connection is checked


class Answer:
    """One request being answered. The scheduler's thread sends it the text as it is written."""

    def __init__(
        self, service: Service, request: Request, params: ChatRequest, reply: Reply, user: User | None
    ) -> None:
        self.service, self.request, self.params, self.reply, self.user = service, request, params, reply, user
        self.messages = params.conversation()
        self.reader = AnswerReader()
        self.prompt_ids: list[int] = []
        self.finished: Finished | None = None
        self._events: asyncio.Queue[str | Finished | Exception] = asyncio.Queue()
        self._generation: GenerationRequest | None = None

    async def submit(self, slot: Slot) -> None:
        """Put it in the scheduler's queue.

        Raises
        ------
        ApiError
            400 where the chat template refuses the messages, the model knows no tools, or the prompt is too long.
        """
        service, params, events, loop = self.service, self.params, self._events, asyncio.get_running_loop()
        model, tokenizer = service.scheduler.model, service.scheduler.tokenizer
        service.consolidator.interrupt()
        try:
            template = await run_in_threadpool(response_template, tokenizer, model) if params.uses_tools else None
        except InputError as error:
            raise ApiError(400, str(error), "tools") from error
        try:
            self.prompt_ids = await run_in_threadpool(self._tokenize)
        except InputError as error:
            raise ApiError(400, str(error), "messages") from error
        calling = template is not None and bool(params.offered)
        if template is not None and calling:
            try:
                self.reader, begun = calls_in_answer(tokenizer, model, template, self.prompt_ids, params)
            except InputError as error:
                raise ApiError(400, str(error), "tool_choice") from error
            self.prompt_ids += begun
        memory = None if self.user is None else self.user.memory  # read after the words that wait to become part of it
        max_new_tokens = min(params.max_new_tokens or service.limits.max_new_tokens, service.limits.max_new_tokens)
        if model.longest is not None:  # the last token is written, and never read
            max_new_tokens = min(max_new_tokens, model.longest + 1 - len(self.prompt_ids))
        self._generation = GenerationRequest(
            prompt_ids=self.prompt_ids,
            memory=memory,
            sampling=Sampling.from_request(model, params.temperature, params.top_p, params.seed),
            max_new_tokens=max_new_tokens,
            detokenizer=IncrementalDetokenizer(tokenizer, params.stop or (), skip_special_tokens=not calling),
            emit=lambda event: loop.call_soon_threadsafe(events.put_nowait, event),
            slot=slot,
        )
        # For a client that disconnects before the first piece: nobody then iterates over `deltas`.
        weakref.finalize(self, self._generation.cancelled.set)
        service.scheduler.submit(self._generation)

    def _tokenize(self) -> list[int]:
        """The tokens of the prompt. Raises ApiError if there are too many, where possible before they are counted."""
        limits, messages, tools = self.service.limits, self.messages, self.params.offered
        size = sum(len(message["content"].encode()) for message in messages)
        if self.params.uses_tools:
            size += len(json.dumps([tools, *(message.get("tool_calls") for message in messages)]))
        if size > limits.max_text or len(messages) > limits.max_prompt:
            raise _too_long(
                f"{len(messages):,} messages of {size:,} bytes are a longer prompt than this server reads: at most "
                f"{limits.max_prompt:,} tokens, and {limits.max_text:,} bytes"
            )
        scheduler, user = self.service.scheduler, self.user
        ids = scheduler.prompt(messages if user is None else user.with_notes(messages, scheduler.tokenizer), tools)
        longest = scheduler.model.longest
        if longest is not None and len(ids) > longest:
            raise _too_long(f"The prompt has {len(ids):,} tokens, and the model has learned {longest:,} positions")
        if len(ids) > limits.max_prompt:
            raise _too_long(f"The prompt has {len(ids):,} tokens; this server reads at most {limits.max_prompt:,}")
        return ids

    async def deltas(self) -> AsyncIterator[Delta]:
        """The message in pieces, an empty one after `KEEP_ALIVE` seconds without text. At the end the turn is recorded.

        Reading and writing stop when the iteration is abandoned.
        """
        assert self._generation is not None
        try:
            while self.finished is None:
                event = await self._next_event()
                if isinstance(event, InputError):
                    raise ApiError(400, str(event), "messages") from event
                if isinstance(event, Exception):
                    raise ApiError(500, "The answer failed; the server's log says why.") from event
                if isinstance(event, Finished):
                    self.finished = event
                for delta in self._read(event):
                    yield delta
            if self.finished.reason == "cancelled":
                raise ApiError(503, "The server is being stopped.", headers={"Retry-After": str(RETRY_AFTER)})
            await run_in_threadpool(self._record)
        finally:
            self._generation.cancelled.set()

    def _read(self, event: str | Finished) -> list[Delta]:
        if isinstance(event, Finished):
            return [] if event.reason == "cancelled" else self.reader.end(event.reason == "stop")
        return self.reader.feed(event) if event else [{}]

    @property
    def reason(self) -> str:
        """Why the answer ended, as OpenAI says it."""
        assert self.finished is not None
        return "tool_calls" if self.reader.calls and self.finished.reason == "stop" else self.finished.reason

    async def _next_event(self) -> str | Finished | Exception:
        try:
            async with asyncio.timeout(KEEP_ALIVE):
                return await self._events.get()
        except TimeoutError:
            return ""

    def _record(self) -> None:
        identity = self.params.identity
        if self.user is None or identity is None or self.reader.calls:  # with calls the answer is yet to come
            return
        try:
            self.service.users.record(identity, self.user, self.messages, self.reader.text)
        except (OSError, TTTError) as error:
            logger.exception("A turn could not be recorded.")
            raise ApiError(500, "The answer could not be recorded; the server's log says why.") from error

    async def response(self) -> Response:
        with self.user or nullcontext():
            async for _ in self.deltas():
                if await self.request.is_disconnected():
                    raise ClientDisconnect
        assert self.finished is not None
        said, written = self.reader.message, self.finished.tokens
        return JSONResponse(self.reply.whole(said, self.reason, len(self.prompt_ids), written))

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events. After the first one an error can only be sent as another event."""
        with self.user or nullcontext():
            try:
                yield self.reply.begun()
                async for delta in self.deltas():
                    yield self.reply.piece(delta) if delta else ": keep-alive\n\n"
                assert self.finished is not None
                yield self.reply.ended(self.reason, len(self.prompt_ids), self.finished.tokens)
            except ApiError as error:
                yield self.reply.failed(error)


def _rate_limited(message: str) -> ApiError:
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": str(RETRY_AFTER)})


def _too_long(message: str) -> ApiError:
    return ApiError(400, f"{message}. Send less of the conversation.", "messages", "context_length_exceeded")


class Consolidator(Protocol):
    """Who makes memory of what was said, and changes facts, beside the answers."""

    changes: FactChanges

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def interrupt(self) -> None:
        """A request has come."""


class Service:
    """The route handlers, and what they share.

    Parameters
    ----------
    user_header : a header that names the user, too, set by an application that has authenticated them. None for none.
    """

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        users: Users,
        consolidator: Consolidator,
        limits: Limits,
        user_header: str | None = None,
    ) -> None:
        self.name, self.scheduler, self.users, self.consolidator = name, scheduler, users, consolidator
        self.user_header = user_header
        self.limits, self.admission = limits, AdmissionControl(limits)
        self.memories = Memories(users, consolidator.changes, limits)

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.scheduler.start()
        self.consolidator.start()
        try:
            yield
        finally:
            await run_in_threadpool(self.consolidator.stop)
            await run_in_threadpool(self.scheduler.stop)
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
            answer = Answer(self, request, params, reply, user)
            await answer.submit(slot)
        except BaseException:
            slot.release()
            raise
        if not params.stream:
            return await answer.response()
        return StreamingResponse(answer.stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

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


def application(service: Service, key: str | None, origins: Sequence[str] = ()) -> Starlette:
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
