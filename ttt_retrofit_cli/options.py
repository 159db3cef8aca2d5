"""Options that several verbs share, and the frame that every verb runs in."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .loading import Choices
    from .output import Output

STOPPED = "Stopped. Nothing was left half done."

Model = Annotated[
    str, typer.Argument(help="Directory or Hub id, of a base or of a converted model.", show_default=False)
]
Files = Annotated[list[Path], typer.Argument(help="Texts, in UTF-8; - is stdin.", show_default=False)]
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
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that stands beside the model.")]
Split = Annotated[
    bool, typer.Option(help="Special tokens that a message spells are text, not tokens that could begin a turn.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]

Saved = Annotated[Path, typer.Argument(help="A user's directory, or a memory saved alone.", show_default=False)]


class Ended(KeyboardInterrupt):
    """A signal that ends the process: what an interrupt cleans up is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def saying(as_json: bool, stopped: str = STOPPED) -> Iterator[Output]:
    """Where a verb speaks; what goes wrong is one line on stderr, and an interrupt leaves with `stopped`."""
    try:
        with _signals():
            _prepare()
            from .output import Output

            yield Output(as_json)
    except KeyboardInterrupt as interrupt:
        after_the_key = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
        with suppress(OSError):  # the terminal may be gone
            typer.echo(f"{after_the_key}{stopped}", err=True)
        number = interrupt.number if isinstance(interrupt, Ended) else signal.SIGINT
        raise typer.Exit(128 + number) from None
    except BrokenPipeError:  # nobody reads on, as after `| head`: typer leaves quietly
        raise
    except _expected() as error:
        from ttt_retrofit.util.shown import shown

        typer.echo(f"error: {shown(' '.join(str(error).split()) or type(error).__name__)}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _signals() -> Iterator[None]:
    """Unwind where a process is terminated or its terminal hangs up, unless that is ignored, as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def end(number: int, _: object) -> None:
        for each in before:  # once: what is being cleaned up is not to be interrupted
            signal.signal(each, signal.SIG_IGN)
        raise Ended(number)

    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare() -> None:
    """Streams that carry any text, and libraries that keep their remarks to themselves."""
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # Threads that spin while they wait make a read three times slower wherever another program has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def _expected() -> tuple[type[Exception], ...]:
    """What a user can do something about; anything else is a bug, and its traceback is wanted."""
    from safetensors import SafetensorError
    from torch import OutOfMemoryError

    from ttt_retrofit import TTTError

    return TTTError, OSError, ImportError, SafetensorError, OutOfMemoryError, MemoryError


def choices_of(
    window: int | None, settings: list[str] | None, trust: bool, preset: str | None = None, **defaults: int
) -> Choices:
    from .loading import Choices

    return Choices(preset, window, tuple(settings or ()), defaults, trust)
