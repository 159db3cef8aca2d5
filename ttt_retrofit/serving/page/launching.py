"""A page at an address of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from .controller import PageController
from .routes import application

HOST = "127.0.0.1"
GRACE = 1.0  # seconds in which requests may end when the page is closed


@contextmanager
def launch(controller: PageController, title: str, port: int | None) -> Iterator[str]:
    """Serve the page at a local address, which is yielded. The page loads nothing from other machines."""
    with socket.create_server((HOST, port or 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(application(controller, title), log_level="warning"))
        thread = threading.Thread(target=lambda: server.run([sock]), name="ttt-page-server", daemon=True)
        controller.start()
        thread.start()
        try:
            yield f"http://{HOST}:{sock.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(GRACE)  # a browser that still looks at it keeps a stream open
            controller.close()
