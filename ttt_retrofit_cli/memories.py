"""`ttt-retrofit memory`: memories on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Saved, saying

memories = typer.Typer(help="Memories on disk: versions, contents, rollback, export.", no_args_is_help=True)

Store = Annotated[Path, typer.Argument(help="A user's directory, as given to --memory.", show_default=False)]
Target = Annotated[Path, typer.Argument(help="Directory to write; must not exist.", show_default=False)]
Version = Annotated[int | None, typer.Option(help="Of a store; the one that speaks when not given.")]


@memories.command("list")
def memory_list(directory: Store, as_json: Json = False) -> None:
    """Every version, and which one speaks."""
    with saying(as_json) as output:
        from . import remembering

        remembering.show_list(output, directory)


@memories.command("show")
def memory_show(memory: Saved, version: Version = None, as_json: Json = False) -> None:
    """Contexts, sizes and the report of one memory."""
    with saying(as_json) as output:
        from . import remembering

        remembering.show(output, memory, version)


@memories.command("rollback")
def memory_rollback(directory: Store, as_json: Json = False) -> None:
    """Back to the version before."""
    with saying(as_json) as output:
        from . import remembering

        remembering.rollback(output, directory)


@memories.command("export")
def memory_export(
    memory: Saved,
    out: Target,
    version: Version = None,
    rank: Annotated[int, typer.Option(help="Largest rank of the adapter.", min=1)] = 16,
    transposed: Annotated[bool, typer.Option("--transposed", help="For GPT-2, whose projections are Conv1D.")] = False,
    as_json: Json = False,
) -> None:
    """Write a PEFT LoRA adapter that says what the memory says with its gates open."""
    with saying(as_json) as output:
        from . import remembering

        remembering.export(output, memory, out, version, rank, transposed)


@memories.command("combine")
def memory_combine(
    sources: Annotated[list[Path], typer.Argument(help="Memories or users' directories.", show_default=False)],
    out: Target,
    weight: Annotated[list[float] | None, typer.Option(help="How loud each speaks, in order.")] = None,
    as_json: Json = False,
) -> None:
    """Write one memory with the entries of several."""
    with saying(as_json) as output:
        from . import remembering

        remembering.combine(output, sources, out, weight)


@memories.command("erase")
def memory_erase(
    store: Annotated[
        Path, typer.Argument(help="What was given to `serve --store`, or to `chat --memory`.", show_default=False)
    ],
    user: Annotated[
        str | None,
        typer.Argument(
            help="Of a server, as the requests named them; after -- if it begins with a dash.", show_default=False
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Delete all that a chat or a server, which must not be running, has stored of a user."""
    with saying(as_json) as output:
        from . import remembering

        remembering.erase(output, store, user)
