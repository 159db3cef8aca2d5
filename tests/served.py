"""A server on a free port of this machine, with a tiny model, and clients of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from converted import converted
from openai import OpenAI
from test_agent import CONFIG
from words import QUESTIONS, tokenizer

from ttt_retrofit import ChatSession
from ttt_retrofit.serving.answering import Answering
from ttt_retrofit.serving.app import Limits, Service, application
from ttt_retrofit.serving.keeper import Keeper
from ttt_retrofit.serving.users import Users

NAME = "tiny"
NEVER = 1e9  # seconds


def users(model: Any, store: Path, config: Any = CONFIG) -> Users:
    def opened(path: Path) -> ChatSession:
        return ChatSession(model, tokenizer(), path, keep_turns=0, config=config, questions=QUESTIONS)

    return Users(store, opened)


@contextmanager
def served(
    store: Path,
    model: Any = None,
    key: str | None = None,
    idle: float = NEVER,
    batch: int = 4,
    most: int = 16,
    limits: Limits = Limits(max_new_tokens=64),
    config: Any = CONFIG,
) -> Iterator[tuple[str, Service]]:
    """The address of a running server, and its service."""
    model = model or converted("llama", chunk_size=8, sliding_window=64)
    known = users(model, store, config)
    service = Service(NAME, Answering(model, tokenizer(), batch, most), known, Keeper(known, idle), limits)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings = uvicorn.Config(
            application(service, key), log_level="error", lifespan="on", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", service
        finally:
            server.should_exit = True
            thread.join()


def client(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def until(true: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.05)
