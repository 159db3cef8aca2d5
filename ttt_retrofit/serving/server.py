"""A whole server: one model, the directory of its users, and a socket."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..chat.known import NOTE_TOKENS
from ..chat.session import ChatSession
from ..consolidation.config import ConsolidationConfig
from ..consolidation.facts.writers import FactWriter
from .admission import Limits
from .app import Service
from .connections import Server
from .idle import IdleConsolidator
from .prompts import Prompts
from .routes import Routes, application
from .scheduler import Scheduler
from .user import KEEP_VERSIONS
from .users import Users

if TYPE_CHECKING:
    from .engine import Engine

GRACE = 5  # seconds in which answers may end when the server is stopped


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A bound socket, and the base URL of the API there. Port 0 is any free port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    bound = f"[{host}]" if family == socket.AF_INET6 else host
    return sock, f"http://{bound}:{sock.getsockname()[1]}/v1"


def make_server(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    name: str,
    key: str | None = None,
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    user_header: str | None = None,
    idle: float = 60.0,
    batch: int = 4,
    keep_versions: int = KEEP_VERSIONS,
    config: ConsolidationConfig | None = None,
    questions: Sequence[str] | None = None,
    writer: tuple[PreTrainedModel, PreTrainedTokenizerBase] | str | FactWriter | None = None,
    split_special_tokens: bool = True,
    note_tokens: int = NOTE_TOKENS,
    engine: Engine | None = None,
) -> Server:
    """A server that consolidates its users' messages while they are idle. `run(sockets=[...])` answers until a signal.

    Parameters
    ----------
    directory : the store, with a directory for each user.
    name : the model's name, as clients give it.
    key : the API key; None requires none.
    origins : origins of web pages that may ask from a browser.
    limits : see `Limits`.
    user_header : see `Service`.
    idle : seconds without a request after which a user's messages are consolidated.
    batch : requests answered together.
    keep_versions : versions of each user's memory that stay on disk.
    config, questions, writer, split_special_tokens, note_tokens : see `ChatSession`.
    engine : answers in the place of the model, which consolidates and says what speaks.
    """

    def open_session(path: Path) -> ChatSession:
        return ChatSession(
            model, tokenizer, path, keep_turns=0, config=config, questions=questions, writer=writer,
            note_tokens=note_tokens,
        )  # fmt: skip

    limits = limits or Limits()
    service: Routes
    if engine is None:
        scheduler = Scheduler(model, tokenizer, batch, split_special_tokens)
        users = Users(directory, open_session, keep_versions)
        idle_work = IdleConsolidator(users, idle, lambda: scheduler.busy)
        service = Service(name, scheduler, users, idle_work, limits, user_header)
    else:
        from .gate_reader import GateReader
        from .gateway import Gateway  # needs httpx

        prompts, gates = Prompts(tokenizer, split_special_tokens), GateReader(model)
        users = Users(directory, open_session, keep_versions, engine.follow)
        idle_work = IdleConsolidator(users, idle, lambda: gates.busy)
        service = Gateway(name, engine, gates, prompts, users, idle_work, limits, user_header)
    server = Server(application(service, key, origins), service.close, service.stop, GRACE)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # uvicorn handles SIGINT and SIGTERM only
        signal.signal(signal.SIGHUP, lambda _, frame: server.handle_exit(signal.SIGTERM, frame))
    return server
