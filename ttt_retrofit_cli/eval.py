"""`eval` and `demo`: the loss of texts under several ways of reading."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Files, Model, ModelOptions

if TYPE_CHECKING:
    from .output import Output

DEMO_WINDOW = 512


def evaluate(
    out: "Output",
    model: Model,
    files: Files,
    options: ModelOptions,
    tokens: Annotated[int | None, typer.Option(help="Of each text, at most.", min=2)] = None,
) -> None:
    """Loss by quarter of a text: full attention, window + sinks, and with updates."""
    from ttt_retrofit.evaluation import FULL, SINKS, TTT

    from .comparing import compare

    compare(out, model, files, tokens, options, (FULL, SINKS, TTT))


def demo(
    out: "Output",
    options: ModelOptions,
    model: Annotated[str | None, typer.Argument(help="Directory or Hub id.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Argument(help="A long text.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(help="Of the text, at most.", min=2)] = 6144,
) -> None:
    """One text read in four ways, through a window of 512 tokens unless you say otherwise."""
    from ttt_retrofit import InputError
    from ttt_retrofit.evaluation import SYSTEMS

    from .comparing import compare

    if model is None or file is None:
        raise InputError(
            "The demo's own model and text come with the repository, not with the package: clone it and run "
            "`make demo`. Here, name a model and a text: ttt-retrofit demo MODEL FILE."
        )
    compare(out, model, [file], tokens, replace(options, window=options.window or DEMO_WINDOW), SYSTEMS)
