"""`Gateway`: chat completions by an engine, which is told for each of them which of a user's entries speak.

Where none speaks, and nothing that is known in words is asked about, the engine gets the messages as they came and
answers as it does without a gateway. Consolidation, facts and turns stay in this process.
"""

from __future__ import annotations

import asyncio
import json
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from transformers.utils import logging

from ..errors import ConfigError, InputError, quoted
from ..memory.entry import Entry
from .admission import Limits, Slot
from .engine import CONNECT, Engine, EngineError, only, said_in, unreachable
from .gate_reader import GateReader
from .prompts import Prompts, check_text, check_tokens
from .protocol import KEEP_ALIVE, RETRY_AFTER, ApiError, ChatReply, ChatRequest, Reply, event
from .routes import Consolidator, Routes
from .stores import remembered
from .user import User
from .users import Users

logger = logging.get_logger(__name__)

PASSED_ON = ("temperature", "top_p", "seed", "stop", "tool_choice", "parallel_tool_calls")  # as they are
NOT_SAID: list[Any] = [None, "", []]
DATA, DONE = "data:", "[DONE]"  # of a stream
Result = TypeVar("Result")


class ForwardedAnswer:
    """One request that an engine answers.

    Attributes
    ----------
    headers : of the reply. For a user, `Server-Timing` has the milliseconds before the engine was asked: `words` for
        what is known in words, `gate` for the layers below the gates, `adapter` where one speaks.
    """

    def __init__(self, gateway: Gateway, request: Request, params: ChatRequest, user: User | None) -> None:
        self.gateway, self.request, self.params, self.user = gateway, request, params, user
        self.messages = params.conversation()
        self.headers: dict[str, str] = {}
        self.text, self.called = "", False
        self.finished = False
        self._reply: httpx.Response | None = None
        self._slot: Slot | None = None

    # ------------------------------------------------------------------ the request

    async def submit(self, slot: Slot) -> None:
        """Decide what speaks, and ask the engine.

        Raises
        ------
        ApiError
            400 for a prompt that is too long or that the chat template refuses; 502 and 503 where the engine does not
            answer; what it refuses, with its status.
        """
        self._slot = slot
        weakref.finalize(self, slot.release)  # for a client that disconnects before the first piece
        if self.gateway.closing:
            raise _stopped()
        with self.user or nullcontext():
            try:
                check_text(self.messages, self.params, self.gateway.limits)
                body = await run_in_threadpool(self._body)
                self._reply = await self._patiently(self.gateway.ask(body))
                if self._reply.status_code == 404 and self.gateway.engine.lost(body):  # it was started again
                    await self._reply.aclose()
                    self._reply = await self._patiently(self.gateway.ask(await run_in_threadpool(self._body)))
                if self._reply.is_error:
                    await self._patiently(self._reply.aread())
                    raise _refused(self.gateway.engine.url, self._reply)
            except InputError as error:
                raise ApiError(400, str(error), "messages") from error
            except (EngineError, ConfigError) as error:
                logger.error("%s", error)
                raise _away(str(error)) from error
            except httpx.TransportError as error:
                raise _away(unreachable(self.gateway.engine.url, error)) from error

    def _body(self) -> dict[str, Any]:
        params, limit = self.params, self.gateway.limits.max_new_tokens
        messages, fields = self._spoken()
        body: dict[str, Any] = {"messages": [_as_sent(message) for message in messages], "stream": bool(params.stream)}
        body |= {name: value for name in PASSED_ON if (value := getattr(params, name)) not in NOT_SAID}
        if params.tools:
            body["tools"] = [tool.model_dump(exclude_none=True) for tool in params.tools]
        if params.include_usage:
            body["stream_options"] = {"include_usage": True}
        return body | {"max_tokens": min(params.max_new_tokens or limit, limit)} | fields

    def _spoken(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """The messages with what is told in words, and the fields that let entries speak."""
        engine, user, messages = self.gateway.engine, self.user, self.messages
        if user is None:
            return messages, engine.plain()
        tokenizer = self.gateway.prompts.tokenizer
        spent: dict[str, float] = {}
        with _timed(spent, "words"):
            noted, concerned = user.with_notes(messages, tokenizer), user.concerned(messages)
        memory, entries = user.memory, list[Entry]()  # read after the words that wait to become part of it
        if memory is not None and memory.entries:
            with _timed(spent, "gate"):
                ids = self.gateway.prompts.ids(messages, self.params.offered)
                check_tokens(ids, self.gateway.limits)
                entries = self.gateway.gates.speaking(ids, memory, user)
        fields = engine.plain()
        if entries:
            assert memory is not None
            speaking = only(memory, entries)
            with _timed(spent, "adapter"):
                speak = engine.speaking(user.name, speaking)
            if user.memory is not memory:  # it was changed or erased meanwhile: nothing of the other one may stay
                engine.follow(user.name, user.memory)
                return self._spoken()
            if speak is None:
                noted = user.with_notes(messages, tokenizer, told=speaking.facts())
            else:
                fields = speak
        self.headers = {"Server-Timing": ", ".join(f"{name};dur={1e3 * took:.1f}" for name, took in spent.items())}
        return list[dict[str, Any]](noted) if entries or concerned else messages, fields

    async def _patiently(self, work: Awaitable[Result]) -> Result:
        """What it gives, unless the client goes or the server is stopped meanwhile."""
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=KEEP_ALIVE))[0]:
                if self.gateway.stopped:
                    raise _stopped()
                if await self.request.is_disconnected():
                    raise ClientDisconnect
            return task.result()
        finally:
            task.cancel()

    # ------------------------------------------------------------------ the answer

    async def response(self) -> Response:
        reply = self._reply
        assert reply is not None
        with self.user or nullcontext(), self._ending():
            try:
                await self._patiently(reply.aread())
            except httpx.TransportError as error:
                raise _cut_off(self.gateway.engine.url) from error
            finally:
                await reply.aclose()
            try:
                document = reply.json()
                self._read(document["choices"][0]["message"])
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise _unreadable(self.gateway.engine.url, reply.text) from error
            await run_in_threadpool(self._record)
        return JSONResponse({**document, "model": self.gateway.name}, headers=self.headers)

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events, as the engine sends them. An error can only be sent as another event."""
        with self.user or nullcontext(), self._ending():
            try:
                async with aclosing(self._lines()) as lines:
                    async for line in lines:
                        if line is None:
                            yield ": keep-alive\n\n"
                        elif line.startswith(DATA) and (said := line.removeprefix(DATA).strip()) != DONE:
                            yield await self._event(said)
                if not self.finished:
                    raise _cut_off(self.gateway.engine.url)
                yield f"{DATA} {DONE}\n\n"
            except ApiError as error:
                yield event(error.body())

    async def _event(self, said: str) -> str:
        """An event as the client gets it. The turn is recorded before the client is told that it is finished."""
        url = self.gateway.engine.url
        try:
            document = json.loads(said)
            if document.get("error"):
                raise ApiError(502, f"The engine at {url} has failed: {quoted(document['error'], 500)}")
            ends = False
            for choice in document["choices"]:
                self._read(choice["delta"])
                ends = ends or choice.get("finish_reason") is not None
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise _unreadable(url, said) from error
        if ends and not self.finished:
            await run_in_threadpool(self._record)
            self.finished = True
        return event({**document, "model": self.gateway.name})

    async def _lines(self) -> AsyncGenerator[str | None, None]:
        """The lines of the engine's stream; None after `KEEP_ALIVE` seconds without one."""
        assert self._reply is not None
        lines, task = aiter(self._reply.aiter_lines()), None
        try:
            while True:
                task = task or asyncio.ensure_future(anext(lines, DONE))
                done, _ = await asyncio.wait({task}, timeout=KEEP_ALIVE)
                if self.gateway.stopped:
                    raise _stopped()
                if not done:
                    yield None
                    continue
                line, task = task.result(), None
                if line == DONE:
                    return
                yield line
        except httpx.TransportError as error:
            if not self.finished:
                raise _cut_off(self.gateway.engine.url) from error
        finally:
            if task is not None:
                task.cancel()
            await self._reply.aclose()

    def _read(self, said: dict[str, Any]) -> None:
        """Take a message, or a piece of one."""
        self.text += said.get("content") or ""
        self.called = self.called or bool(said.get("tool_calls"))

    def _record(self) -> None:
        if not self.called:  # with calls the answer is yet to come
            self.gateway.record(self.params, self.user, self.messages, self.text)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        assert self._slot is not None
        try:
            yield
        finally:
            self._slot.release()


class Gateway(Routes):
    """A server whose answers an engine writes.

    Parameters
    ----------
    gates : say which entries speak.
    prompts : what messages are in the base's tokens.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        gates: GateReader,
        prompts: Prompts,
        users: Users,
        consolidator: Consolidator,
        limits: Limits,
        user_header: str | None = None,
    ) -> None:
        super().__init__(name, users, consolidator, limits, user_header)
        self.engine, self.gates, self.prompts = engine, gates, prompts
        self.closing = self.stopped = False

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        unlimited = httpx.Limits(max_connections=None)  # `AdmissionControl` limits requests
        timeout = httpx.Timeout(None, connect=CONNECT)
        self._client = httpx.AsyncClient(headers=self.engine.headers, timeout=timeout, limits=unlimited)
        async with self._client, super().lifespan(app):
            yield

    def answer(self, request: Request, params: ChatRequest, reply: Reply, user: User | None) -> ForwardedAnswer:
        if not isinstance(reply, ChatReply):
            raise ApiError(501, "A gateway answers /v1/chat/completions, and not /v1/responses. Ask it there.")
        return ForwardedAnswer(self, request, params, user)

    async def ask(self, body: dict[str, Any]) -> httpx.Response:
        """The reply of the engine to a chat completion, whose body is not read yet."""
        asked = self._client.build_request("POST", f"{self.engine.url}/v1/chat/completions", json=body)
        return await self._client.send(asked, stream=True)

    def start(self) -> None:
        self.engine.clean(lambda user: remembered(self.users.directory / user))

    def close(self) -> None:
        self.closing = True

    def stop(self) -> None:
        self.closing = self.stopped = True


@contextmanager
def _timed(spent: dict[str, float], name: str) -> Iterator[None]:
    begun = time.perf_counter()
    try:
        yield
    finally:
        spent[name] = time.perf_counter() - begun


def _as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """A message as the protocol has it: a call's arguments are JSON in a text."""
    if "tool_calls" not in message:
        return message
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


NOTHING_KEPT = "Nothing of this request was recorded: send it again."


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)}


def _stopped() -> ApiError:
    return ApiError(503, "The server is being stopped.", headers=_later())


def _away(reason: str) -> ApiError:
    return ApiError(503, f"{reason} {NOTHING_KEPT}", headers=_later())


def _cut_off(url: str) -> ApiError:
    return ApiError(502, f"The engine at {url} ended in the middle of its answer. {NOTHING_KEPT}", headers=_later())


def _unreadable(url: str, said: str) -> ApiError:
    return ApiError(502, f"The engine at {url} answers {quoted(said)}, expected a chat completion. {NOTHING_KEPT}")


def _refused(url: str, reply: httpx.Response) -> ApiError:
    """What the engine says of a request that it does not answer."""
    message = f"The engine at {url} answers with {reply.status_code}: {said_in(reply)}"
    if reply.status_code == 429:
        return ApiError(429, message, code="rate_limit_exceeded", headers=_later())
    if reply.status_code in (400, 413, 422):
        return ApiError(reply.status_code, message)
    if reply.status_code in (401, 403):
        message += " Give its key as TTT_RETROFIT_ENGINE_KEY."
    return ApiError(502, f"{message} {NOTHING_KEPT}", headers=_later())
