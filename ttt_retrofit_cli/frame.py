"""The frame that every verb runs in: its output, and how it ends."""

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
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from .output import Output

STOPPED = "Stopped. Nothing was left half done."  # unless a verb says more


class Terminated(KeyboardInterrupt):
    """A signal that ends the process: what an interrupt cleans up is cleaned up."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def verb_frame(as_json: bool) -> Iterator[Output]:
    """Run a verb with its output. An error is one line on stderr; an interrupt leaves with `Output.stopped`."""
    out = None
    try:
        with _signals():
            _prepare()
            from .output import Output

            out = Output(as_json)
            yield out
    except KeyboardInterrupt as interrupt:
        after_the_key = "\n" if sys.stderr.isatty() else ""  # a terminal shows ^C
        with suppress(OSError):  # the terminal may be gone
            typer.echo(f"{after_the_key}{out.stopped if out else STOPPED}", err=True)
        number = interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT
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
        raise Terminated(number)

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
