"""Connections as they come from the network: how long one may hold a place without asking, and how the server stops.

It knows nothing of what is asked.
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

PATIENCE = 10.0  # seconds for the headers of a request, from the connection or the last reply on
STUCK = 60.0  # seconds in which a client takes nothing of its reply
HEADERS = 16 << 10  # bytes
SILENT = 128  # connections on which nothing has been asked, at most; for one more, the oldest goes
AT_ONCE = 16  # connections accepted before those that must go have gone
QUEUE = 128  # connections that the system keeps until they are accepted
LISTEN = 2  # seconds in which what still comes from a client that was refused is thrown away


def room() -> int:
    """How many connections may be silent: a process can open only so many files, and connections are files."""
    if sys.platform == "win32":
        return SILENT
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SILENT if files == resource.RLIM_INFINITY else min(SILENT, files // 4)


class Connection(H11Protocol):
    """One that is closed when nothing comes of it, and when others need its place."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False
        self._since = time.monotonic()
        self._expect(PATIENCE)
        silent = [other for other in self.connections if isinstance(other, Connection) and other._unasked]
        if len(silent) > room():
            min(silent, key=lambda other: other._since)._go()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if self._busy:
            self._expect(None)

    def on_response_complete(self) -> None:
        self._since = time.monotonic()
        self._expect(PATIENCE)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._expect(STUCK)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._expect(None if self._busy else PATIENCE)

    def send_400_response(self, msg: str) -> None:
        """Of what is no HTTP, or has too long headers. It is closed when the client has had time to read it."""
        document = {"error": {"message": msg, "type": "invalid_request_error", "param": None, "code": None}}
        body = json.dumps(document).encode()
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self._refused = True
        self._expect(LISTEN)

    @property
    def _busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def _unasked(self) -> bool:
        """Whether it is still being asked, if at all: its headers or its body have not arrived."""
        return not self.transport.is_closing() and (not self._busy or self.cycle.more_body)

    def _expect(self, seconds: float | None) -> None:
        """Close it after that time, if nothing happens; None for no time."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._go)

    def _go(self) -> None:
        # What the client does not take would keep it open for ever.
        self.transport.abort() if self.transport.get_write_buffer_size() else self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's, which when it is stopped gives answers time to end, and then has `end` end them.

    Parameters
    ----------
    close : called at once, and returns at once; no reply is begun after it.
    end : called when the time is over, in a thread; after it every open reply ends by itself.
    grace : seconds that open replies have.
    """

    def __init__(self, app: ASGIApp, close: Callable[[], object], end: Callable[[], object], grace: float) -> None:
        settings = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="on",
            log_level="warning",
            server_header=False,
            h11_max_incomplete_event_size=HEADERS,
            timeout_keep_alive=int(PATIENCE),
            backlog=AT_ONCE,
        )
        super().__init__(settings)
        self._close, self._end, self._grace = close, end, grace

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            # asyncio has one number for both; with a large one it accepts until no file can be opened any more.
            listening.listen(QUEUE)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._close()
        ending = asyncio.create_task(self._end_later())
        await super().shutdown(sockets)
        ending.cancel()

    async def _end_later(self) -> None:
        await asyncio.sleep(self._grace)
        await run_in_threadpool(self._end)
        await asyncio.sleep(LISTEN)
        for connection in self.server_state.connections:  # of clients that send or take nothing
            if connection.transport is not None:
                connection.transport.abort()
