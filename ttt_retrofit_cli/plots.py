"""`ttt-retrofit plot`: pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Device, Json, Model, Preset, Saved, Settings, Trust, Window, choices_of, saying

plots = typer.Typer(help="Pictures on the terminal; with --out, PNG and HTML files.", no_args_is_help=True)
Folder = Annotated[Path | None, typer.Option(help="Directory for PNG and HTML files.")]


@plots.command("reading")
def plot_reading(
    model: Model,
    file: Annotated[Path, typer.Argument(help="A UTF-8 text; - is stdin.", show_default=False)],
    out: Folder = None,
    tokens: Annotated[int, typer.Option(help="Of the text, at most.", min=2)] = 6144,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Loss by position, which layers learned when, surprise over the text, and bytes of state."""
    with saying(as_json) as output:
        from . import plotting

        plotting.plot_reading(output, model, file, out, tokens, choices_of(window, settings, trust, preset), device)


@plots.command("memory")
def plot_memory(
    model: Model,
    memory: Saved,
    context: Annotated[Path, typer.Argument(help="What the memory was made of.", show_default=False)],
    question: Annotated[list[str], typer.Option(help="That the context answers; repeat it for more.")],
    out: Folder = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """What a memory changes in the hidden states, layer by layer, against the context itself."""
    with saying(as_json) as output:
        from . import plotting

        plotting.plot_memory(output, model, memory, context, question, out, choices_of(window, settings, trust), device)
