"""Answers by the model of this process."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import nullcontext

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..errors import InputError
from .admission import Limits, Slot
from .batch_generator import Finished, GenerationRequest
from .detokenizer import IncrementalDetokenizer
from .prompts import check_text, check_tokens, too_long
from .protocol import KEEP_ALIVE, RETRY_AFTER, ApiError, ChatRequest, Reply
from .routes import Consolidator, Routes
from .sampling import Sampling
from .scheduler import Scheduler
from .tools import AnswerReader, Delta, calls_in_answer, response_template
from .user import User
from .users import Users


class WrittenAnswer:
    """One request being answered. The scheduler's thread sends it the text as it is written."""

    def __init__(
        self, service: Service, request: Request, params: ChatRequest, reply: Reply, user: User | None
    ) -> None:
        self.service, self.request, self.params, self.reply, self.user = service, request, params, reply, user
        self.messages = params.conversation()
        self.headers: dict[str, str] = {}
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
        check_text(messages, self.params, limits)
        scheduler, user = self.service.scheduler, self.user
        ids = scheduler.prompt(messages if user is None else user.with_notes(messages, scheduler.tokenizer), tools)
        longest = scheduler.model.longest
        if longest is not None and len(ids) > longest:
            raise too_long(f"The prompt has {len(ids):,} tokens, and the model has learned {longest:,} positions")
        check_tokens(ids, limits)
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
        if not self.reader.calls:  # with calls the answer is yet to come
            self.service.record(self.params, self.user, self.messages, self.reader.text)

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


class Service(Routes):
    """A server whose answers the model of this process writes."""

    def __init__(
        self,
        name: str,
        scheduler: Scheduler,
        users: Users,
        consolidator: Consolidator,
        limits: Limits,
        user_header: str | None = None,
    ) -> None:
        super().__init__(name, users, consolidator, limits, user_header)
        self.scheduler = scheduler

    def answer(self, request: Request, params: ChatRequest, reply: Reply, user: User | None) -> WrittenAnswer:
        return WrittenAnswer(self, request, params, reply, user)

    def start(self) -> None:
        self.scheduler.start()

    def close(self) -> None:
        self.scheduler.close()

    def stop(self) -> None:
        self.scheduler.stop()
