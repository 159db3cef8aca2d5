"""`mcp`: what is remembered of a user, as tools for a program that speaks the Model Context Protocol."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Base, ModelOptions, User, WriterOptions

if TYPE_CHECKING:
    from .output import Output


def mcp(
    out: "Output",
    making: WriterOptions,
    options: ModelOptions,
    store: Annotated[Path, typer.Option(help="A user's directory, or one of several with --user.", show_default=False)],
    user: User = None,
    model: Base = None,
) -> None:
    """Serve the facts of one user over stdin and stdout: search, list, add, correct, forget."""
    from ttt_retrofit import MissingExtraError

    if find_spec("mcp") is None:
        raise MissingExtraError("mcp", "mcp", "mcp")
    from ttt_retrofit.serving.fact_tools import FactTools
    from ttt_retrofit.serving.mcp_server import make_mcp_server

    from .sessions import SessionOpener
    from .stores import directory_of, remembered

    out.stopped = "Stopped. A change that was under way is not made."
    directory = directory_of(store, user)
    opener = SessionOpener(directory, model, making, options, out)
    make_mcp_server(FactTools(lambda: remembered(directory), opener.opened)).run("stdio")
