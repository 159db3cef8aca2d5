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
    store: Annotated[Path | None, typer.Option(help="A user's directory, or one of several with --user.")] = None,
    url: Annotated[str | None, typer.Option(help="Of a server, in place of a store.")] = None,
    api_key: Annotated[str | None, typer.Option(help="Of that server.", envvar="TTT_RETROFIT_API_KEY")] = None,
    user: User = None,
    model: Base = None,
) -> None:
    """Serve the facts of one user over stdin and stdout: search, list, add, correct, forget."""
    from ttt_retrofit import ConfigError, MissingExtraError

    if find_spec("mcp") is None:
        raise MissingExtraError("mcp", "mcp", "mcp")
    from ttt_retrofit.serving.fact_access import Facts
    from ttt_retrofit.serving.fact_tools import FactTools
    from ttt_retrofit.serving.mcp_server import make_mcp_server
    from ttt_retrofit.serving.served_facts import ServedFacts
    from ttt_retrofit.serving.stored_facts import StoredFacts
    from ttt_retrofit.serving.stores import directory_of

    from .sessions import SessionOpener

    out.stopped = "Stopped. A change that was under way is not made."
    if url is not None and store is None and user is not None:
        facts: Facts = ServedFacts(url, api_key)
    elif store is not None and url is None:
        directory_of(store, user)  # raise now, not at the first call
        facts = StoredFacts(store, SessionOpener(model, making, options, out))
    else:
        raise ConfigError("mcp needs --store DIR, or --url URL and --user USER.")
    make_mcp_server(FactTools(facts, user)).run("stdio")
