"""Options that several verbs share, and the frame that every verb runs in."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttt_retrofit.cli.loading import Choices
    from ttt_retrofit.cli.output import Output

STOPPED = "Stopped. Nothing was left half done."

Model = Annotated[
    str, typer.Argument(help="Directory or Hub id, of a base or of a converted model.", show_default=False)
]
Files = Annotated[list[Path], typer.Argument(help="UTF-8 texts; - is stdin.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="'default' or 'fast', for a base.")]
Window = Annotated[int | None, typer.Option(help="Tokens that attention sees.", min=1)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any field of TTTConfig.")]
Recipe = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe", metavar="NAME=VALUE", help="Any field of ConsolidationConfig, or of MemoryConfig as memory.NAME."
    ),
]
Questions = Annotated[Path | None, typer.Option(help="What may be asked later, a line each; else the model asks.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda:0; the GPU if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]

Saved = Annotated[Path, typer.Argument(help="A user's directory, or a memory saved alone.", show_default=False)]


@contextmanager
def saying(as_json: bool, stopped: str = STOPPED) -> Iterator[Output]:
    """Where a verb speaks; what goes wrong is one line on stderr, and an interrupt leaves with `stopped`."""
    try:
        warnings.filterwarnings("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        # Threads that spin while they wait make a read three times slower wherever another program has a core.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from transformers import logging

        from ttt_retrofit.cli.output import Output

        logging.disable_progress_bar()
        yield Output(as_json)
    except KeyboardInterrupt:
        after_the_key = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
        typer.echo(f"{after_the_key}{stopped}", err=True)
        raise typer.Exit(130) from None
    except _expected() as error:
        from ttt_retrofit.shown import shown

        typer.echo(f"error: {shown(' '.join(str(error).split()))}", err=True)
        raise typer.Exit(1) from None


def _expected() -> tuple[type[Exception], ...]:
    """What a user can do something about; anything else is a bug, and its traceback is wanted."""
    from ttt_retrofit import TTTError

    return TTTError, OSError


def choices_of(window: int | None, settings: list[str] | None, preset: str | None = None, **defaults: int) -> Choices:
    from ttt_retrofit.cli.loading import Choices

    return Choices(preset, window, tuple(settings or ()), defaults)
