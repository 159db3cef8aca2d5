"""`serve`: a server with OpenAI's protocol, in which every user has a memory."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

from ttt_retrofit.chat.session import ChatSession
from ttt_retrofit.errors import MissingExtraError

from .loading import Choices, load_model, load_tokenizer
from .output import Output
from .remembering import read_questions, recipe
from .temporary import passing_directory

NEEDED = ("starlette", "uvicorn", "pydantic")
GRACE = 5  # seconds that answers have to end when the server is stopped


def serve(
    out: Output,
    name: str,
    directory: Path | None,
    host: str,
    port: int,
    key: str | None,
    idle: float,
    batch: int,
    limits: dict[str, int],
    origins: Sequence[str],
    keep_versions: int,
    questions: Path | None,
    said: list[str],
    choices: Choices,
    device: str | None,
    split: bool = True,
) -> None:
    """Answer until interrupted; memories are kept in the directory, or nowhere without one.

    Parameters
    ----------
    limits : fields of `serving.places.Limits`.
    origins : of web pages that may ask from a browser.

    Raises
    ------
    MissingExtraError
        Where what serves is not installed, or strangers could reach a server without a key.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise MissingExtraError("serve", ", ".join(missing), "serve")
    from ttt_retrofit.serving.answering import Answering
    from ttt_retrofit.serving.app import Service, application
    from ttt_retrofit.serving.auth import check_exposure
    from ttt_retrofit.serving.connections import Server
    from ttt_retrofit.serving.keeper import Keeper
    from ttt_retrofit.serving.places import Limits
    from ttt_retrofit.serving.users import Users

    check_exposure(host, key, origins)
    config, asked = recipe(said), read_questions(questions)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Bound before the model is loaded: that the port is taken is said at once.
    with (
        socket.create_server((host, port), family=family) as listening,
        nullcontext(directory) if directory else passing_directory() as where,
    ):
        with out.aside.status(f"loading {name}"):
            model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)

        def opened(path: Path) -> ChatSession:
            return ChatSession(model, tokenizer, path, keep_turns=0, config=config, questions=asked)

        local = Path(name).expanduser()
        served = local.resolve().name if local.exists() else name
        answering = Answering(model, tokenizer, batch, split)
        users = Users(Path(where), opened, keep_versions)
        service = Service(served, answering, users, Keeper(users, idle), Limits(**limits))
        bound = f"[{host}]" if family == socket.AF_INET6 else host
        url = f"http://{bound}:{listening.getsockname()[1]}/v1"
        kept = f"Memories are kept in {directory}." if directory else "Nothing is kept; --store DIR keeps memories."
        document = {"url": url, "model": served, "store": None if directory is None else str(directory)}
        out.result(document, f"Serving {served} at {url}. {kept} Ctrl-C stops.")
        server = Server(application(service, key, origins), answering.close, answering.stop, GRACE)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # uvicorn knows of interrupts and terminations only
            signal.signal(signal.SIGHUP, lambda _, frame: server.handle_exit(signal.SIGTERM, frame))
        server.run(sockets=[listening])
