"""Connections: their timeouts, how many may be idle, and how the server stops.

This file knows nothing of the requests' contents.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import Callable

import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_TIMEOUT = 10.0  # seconds for the headers of a request, from the connection or the last reply on
WRITE_TIMEOUT = 60.0  # seconds in which a client takes nothing of its reply
MAX_HEADER_BYTES = 16 << 10
MAX_IDLE = 128  # connections without a complete request; for one more, the oldest is closed
ACCEPT_BATCH = 16  # connections accepted at once, before the oldest idle ones are closed
BACKLOG = 128  # connections that the system keeps until they are accepted
DRAIN_TIMEOUT = 2  # seconds in which data from a client that was refused is received and discarded


def max_idle() -> int:
    """How many connections may be idle. A connection is an open file, and a process may open only so many."""
    if sys.platform == "win32":
        return MAX_IDLE
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_IDLE if files == resource.RLIM_INFINITY else min(MAX_IDLE, files // 4)


class Connection(H11Protocol):
    """A connection that is closed after a timeout, or as the oldest idle one of too many."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._rejected = False
        self._idle_since = time.monotonic()
        self._set_timeout(HEADER_TIMEOUT)
        idle = [other for other in self.connections if isinstance(other, Connection) and other._idle]
        if len(idle) > max_idle():
            min(idle, key=lambda other: other._idle_since)._drop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timeout(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._rejected:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self._answering:
            self._set_timeout(None)

    def on_response_complete(self) -> None:
        self._idle_since = time.monotonic()
        self._set_timeout(HEADER_TIMEOUT)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_timeout(WRITE_TIMEOUT)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._set_timeout(None if self._answering else HEADER_TIMEOUT)

    def send_400_response(self, msg: str) -> None:
        """Reply to what is no HTTP, or has too long headers. The client gets some time to read it."""
        document = {"error": {"message": msg, "type": "invalid_request_error", "param": None, "code": None}}
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self._rejected = True
        self._set_timeout(DRAIN_TIMEOUT)

    @property
    def _answering(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _idle(self) -> bool:
        """Whether no complete request has arrived: nothing, or a part of the headers or of the body."""
        return not self.transport.is_closing() and (not self._answering or self.cycle.more_body)

    def _set_timeout(self, seconds: float | None) -> None:
        """Close the connection after that time; None cancels the timeout."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._drop)

    def _drop(self) -> None:
        # `close` waits until the client has taken what was written, possibly for ever.
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server with a graceful stop: answers get some time to end, then `end` ends them.

    Parameters
    ----------
    close : called first, and returns at once. No reply is begun after it.
    end : called in a thread after `grace` seconds. Open replies end after it.
    grace : seconds for open replies.
    """

    def __init__(self, app: ASGIApp, close: Callable[[], object], end: Callable[[], object], grace: float) -> None:
        settings = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="warning",
            server_header=False,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            timeout_keep_alive=int(HEADER_TIMEOUT),
            backlog=ACCEPT_BATCH,
        )
        super().__init__(settings)
        self._close, self._end, self._grace = close, end, grace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for sock in sockets or []:
            # asyncio uses one number for the backlog and for how many it accepts at once. With a large one it accepts
            # connections until no file can be opened any more.
            sock.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close()
        ending = asyncio.create_task(self._end_later())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_later(self) -> None:
        await asyncio.sleep(self._grace)
        await run_in_threadpool(self._end)
        await asyncio.sleep(DRAIN_TIMEOUT)
        for connection in self.server_state.connections:  # those whose clients neither send nor read
            if connection.transport is not None:
                connection.transport.abort()
