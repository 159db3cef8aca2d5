"""The verbs of the command line. Each is a function with its options, in the file of its name."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from . import facts, memory, plot
from .chat import chat
from .command import command
from .consolidate import consolidate
from .convert import convert
from .eval import demo, evaluate
from .info import info
from .mcp import mcp
from .read import read
from .serve import serve
from .train import train

PACKAGES = ("ttt-retrofit", "torch", "transformers")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
memories = typer.Typer(help="Memories on disk: users, facts, questions, versions, erasure.", no_args_is_help=True)
plots = typer.Typer(help="Pictures on the terminal; with --out, PNG and HTML files.", no_args_is_help=True)

Verbs = dict[str, Callable[..., None]]
VERBS: Verbs = {
    "convert": convert,
    "info": info,
    "read": read,
    "eval": evaluate,
    "demo": demo,
    "chat": chat,
    "serve": serve,
    "mcp": mcp,
    "consolidate": consolidate,
    "train": train,
}
OF_MEMORIES: Verbs = {
    "list": memory.list_stored,
    "show": memory.show,
    "facts": memory.show_facts,
    "ask": memory.ask,
    "forget-fact": facts.forget_fact,
    "correct-fact": facts.correct_fact,
    "add-fact": facts.add_fact,
    "rollback": memory.rollback,
    "export": memory.export,
    "combine": memory.combine,
    "erase": memory.erase,
}
OF_PLOTS: Verbs = {"reading": plot.reading, "memory": plot.effect}

for group, verbs in ((app, VERBS), (memories, OF_MEMORIES), (plots, OF_PLOTS)):
    for name, verb in verbs.items():
        group.command(name)(command(verb))
app.add_typer(memories, name="memory")
app.add_typer(plots, name="plot")


def show_versions(asked: bool) -> None:
    if asked:
        typer.echo("\n".join(f"{package} {version(package)}" for package in PACKAGES))
        raise typer.Exit()


@app.callback()
def main(
    versions: Annotated[
        bool,
        typer.Option(
            "--version", help="Of ttt-retrofit, torch and transformers.", is_eager=True, callback=show_versions
        ),
    ] = False,
) -> None:
    """Language models that keep learning while they read, and remember what they were told."""
