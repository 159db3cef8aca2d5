"""A server as a whole: one model, the directory of its users, and a socket on which it answers."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..chat.session import ChatSession
from ..consolidation.config import ConsolidationConfig
from .answering import Answering
from .app import Service, application
from .connections import Server
from .keeper import Keeper
from .places import Limits
from .users import KEEP_VERSIONS, Users

GRACE = 5  # seconds that answers have to end when the server is stopped


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """A socket that is bound, and the URL of its protocol; port 0 is any that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family)
    bound = f"[{host}]" if family == socket.AF_INET6 else host
    return listening, f"http://{bound}:{listening.getsockname()[1]}/v1"


def make_server(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    *,
    name: str,
    key: str | None = None,
    origins: Sequence[str] = (),
    limits: Limits | None = None,
    idle: float = 60.0,
    batch: int = 4,
    keep_versions: int = KEEP_VERSIONS,
    config: ConsolidationConfig | None = None,
    questions: Sequence[str] | None = None,
    split_special_tokens: bool = True,
) -> Server:
    """A server whose users' words become memory while they are silent; `run(sockets=[...])` answers until a signal.

    Parameters
    ----------
    directory : of the store, with a directory for each user.
    name : of the model, as clients give it.
    key : that every request must bring.
    origins : of web pages that may ask from a browser.
    idle : seconds of silence after which a user's words become memory.
    batch : requests answered together.
    keep_versions : of each user's memory.
    config, questions, split_special_tokens : as of `ChatSession`.
    """

    def opened(path: Path) -> ChatSession:
        return ChatSession(model, tokenizer, path, keep_turns=0, config=config, questions=questions)

    answering = Answering(model, tokenizer, batch, split_special_tokens)
    users = Users(directory, opened, keep_versions)
    service = Service(name, answering, users, Keeper(users, idle), limits or Limits())
    server = Server(application(service, key, origins), answering.close, answering.stop, GRACE)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # uvicorn knows of interrupts and terminations only
        signal.signal(signal.SIGHUP, lambda _, frame: server.handle_exit(signal.SIGTERM, frame))
    return server
