"""A server on a free port of this machine, with a tiny model, and clients of it that ask for something."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from converted import speaker
from openai import OpenAI
from test_agent import CONFIG
from words import QUESTIONS, tokenizer

from ttt_retrofit import ChatSession
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.app import Service
from ttt_retrofit.serving.connections import Server
from ttt_retrofit.serving.idle import IdleConsolidator
from ttt_retrofit.serving.routes import Routes, application
from ttt_retrofit.serving.scheduler import Scheduler
from ttt_retrofit.serving.users import Users

NAME = "tiny"
NEVER = 1e9  # seconds
HELLO = [{"role": "user", "content": "where is Marek ?"}]


def quick(family: str = "llama") -> Any:
    """A model that learns from every eight tokens, and whose window holds a short conversation."""
    return speaker(family)


def said(*texts: str) -> list[dict[str, str]]:
    """A conversation: the user's messages and the answers, in turn."""
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * len(texts), texts)]


def users(model: Any, store: Path, config: Any = CONFIG) -> Users:
    def open_session(path: Path) -> ChatSession:
        return ChatSession(model, tokenizer(), path, keep_turns=0, config=config, questions=QUESTIONS)

    return Users(store, open_session)


@contextmanager
def served(
    store: Path,
    model: Any,
    key: str | None = None,
    idle: float = NEVER,
    batch: int = 4,
    most: int = 16,
    limits: Limits = Limits(max_new_tokens=64),
    config: Any = CONFIG,
    origins: Sequence[str] = (),
    user_header: str | None = None,
    words: Any = None,
) -> Iterator[tuple[str, Service]]:
    """The address of a running server, and its service."""
    known = users(model, store, config)
    service = Service(
        NAME,
        Scheduler(model, words or tokenizer(), batch),
        known,
        IdleConsolidator(known, idle),
        replace(limits, max_concurrent=most),
        user_header,
    )
    with address_of(service, key, origins) as url:
        yield url, service


@contextmanager
def address_of(service: Routes, key: str | None = None, origins: Sequence[str] = ()) -> Iterator[str]:
    """Where a service answers meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(application(service, key, origins), service.close, service.stop, grace=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def at_work(service: Service) -> list[Any]:
    """The requests whose prompt is being read or whose answer is being written."""
    return [request for task in service.scheduler._tasks for request in task.requests]


def most_together(service: Service) -> list[int]:
    """Notes from now on how many answers are written together, step by step."""
    batches: list[int] = []
    step = service.scheduler._step
    service.scheduler._step = lambda task: (batches.append(len(task.requests)), step(task))
    return batches


def client(url: str, key: str = "none") -> OpenAI:
    return OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=60)


def ask(chat: Any, messages: list = HELLO, **settings: Any) -> Any:
    """A short greedy answer, unless the settings say otherwise."""
    return chat.create(model=NAME, messages=messages, **{"max_tokens": 8, "temperature": 0, **settings})


def until(true: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "It took too long."
        time.sleep(0.05)
