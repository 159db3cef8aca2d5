"""The verbs that stand alone: convert, info, read, eval, demo, chat, serve, consolidate, train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .memories import memories
from .options import (  # fmt: skip
    Device,
    Files,
    Json,
    Model,
    Preset,
    Questions,
    Recipe,
    Settings,
    Split,
    Trust,
    Window,
    choices_of,
    saying,
)
from .plots import plots

app = typer.Typer(
    help="Language models that keep learning while they read, and remember what they were told.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(memories, name="memory")
app.add_typer(plots, name="plot")


@app.command()
def convert(
    base: Annotated[str, typer.Argument(help="Directory or Hub id of a base.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not hold anything.", show_default=False)],
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Write a base as a checkpoint that learns while it reads."""
    with saying(as_json) as output:
        from . import models

        models.convert(output, base, out, choices_of(window, settings, trust, preset))


@app.command()
def info(
    model: Model,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Family, layers, parameters that learn, bytes of state; loads no weights."""
    with saying(as_json) as output:
        from . import models

        models.info(output, model, choices_of(window, settings, trust, preset))


@app.command()
def read(
    model: Model,
    files: Files,
    save: Annotated[Path | None, typer.Option(help="Write the state, for TTTCache.load or --from.")] = None,
    begun: Annotated[Path | None, typer.Option("--from", help="Go on from a saved state.")] = None,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Read texts one after another, learning on the way."""
    with saying(as_json, "Stopped. No state was written.") as output:
        from . import reading

        reading.read(output, model, files, save, begun, choices_of(window, settings, trust, preset), device)


@app.command("eval")
def evaluate(
    model: Model,
    files: Files,
    tokens: Annotated[int | None, typer.Option(help="Of each text, at most.", min=2)] = None,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Loss by quarter of a text: full attention, window + sinks, and with updates."""
    with saying(as_json) as output:
        from . import reading

        reading.evaluate(output, model, files, tokens, choices_of(window, settings, trust, preset), device)


@app.command()
def demo(
    model: Annotated[str | None, typer.Argument(help="Directory or Hub id.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Argument(help="A long text.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(help="Of the text, at most.", min=2)] = 6144,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """One text read in four ways, through a window of 512 tokens."""
    with saying(as_json) as output:
        from . import reading

        reading.demo(output, model, file, tokens, choices_of(None, settings, trust, sliding_window=512), device)


@app.command()
def chat(
    model: Model,
    memory: Annotated[Path | None, typer.Option(help="Directory of this user: conversation and memory.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 256,
    page: Annotated[bool, typer.Option("--page", help="In a browser, with what is remembered beside it.")] = False,
    port: Annotated[int | None, typer.Option(help="Of the page; one that is free.", min=1, max=65535)] = None,
    split_special_tokens: Split = True,
    questions: Questions = None,
    recipe: Recipe = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Talk; older turns become memory while you are away from the keyboard."""
    kept = "Nothing of what was said is kept." if memory is None else "What was said is kept, but no unfinished answer."
    with saying(as_json, f"Stopped. {kept}") as output:
        from . import chatting

        choices = choices_of(window, settings, trust)
        chatting.chat(
            output, model, memory, max_new_tokens, questions, recipe or [], choices, device, split_special_tokens, page,
            port,
        )  # fmt: skip


@app.command()
def serve(
    model: Model,
    store: Annotated[Path | None, typer.Option(help="Directory for the memories of all users.")] = None,
    host: Annotated[str, typer.Option(help="Address; any but a local one needs a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any that is free.", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None, typer.Option(help="That every request must bring.", envvar="TTT_RETROFIT_API_KEY")
    ] = None,
    idle: Annotated[
        float, typer.Option(help="Seconds of silence after which a user's words become memory.", min=0)
    ] = 60,
    batch: Annotated[int, typer.Option(help="Requests answered together; each takes a state of its own.", min=1)] = 4,
    max_concurrent: Annotated[int, typer.Option(help="Requests waiting or being answered.", min=1)] = 16,
    max_per_user: Annotated[int, typer.Option(help="The same, of one user.", min=1)] = 4,
    max_unlearned: Annotated[
        int, typer.Option(help="Messages of one user that wait to become memory.", min=1)
    ] = 10_000,
    max_body: Annotated[int, typer.Option(help="Bytes of a request.", min=1)] = 1 << 20,
    max_prompt: Annotated[int, typer.Option(help="Tokens of a prompt, at most.", min=1)] = 1 << 16,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 1024,
    split_special_tokens: Split = True,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Of a web page that may ask from a browser; repeat for more.")
    ] = None,
    keep_versions: Annotated[
        int, typer.Option(help="Of each user's memory, the one that speaks among them.", min=1)
    ] = 3,
    questions: Questions = None,
    recipe: Recipe = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Serve OpenAI's protocol; every user has a memory, made while they are silent."""
    kept = "Nothing of what was said is kept." if store is None else "What was said is kept, but no unfinished answer."
    with saying(as_json, f"Stopped. {kept}") as output:
        from . import serving

        choices = choices_of(window, settings, trust)
        limits = {
            "max_concurrent": max_concurrent, "max_per_user": max_per_user, "max_unlearned": max_unlearned,
            "max_body": max_body, "max_prompt": max_prompt, "max_new_tokens": max_new_tokens,
        }  # fmt: skip
        serving.serve(
            output, model, store, host, port, api_key, idle, batch, limits, allow_origin or [], keep_versions,
            questions, recipe or [], choices, device, split_special_tokens,
        )  # fmt: skip


@app.command()
def consolidate(
    model: Model,
    file: Annotated[Path, typer.Argument(help="A text, or messages as JSON or JSONL; - is stdin.", show_default=False)],
    memory: Annotated[Path, typer.Option(help="Directory of the user whose memory this adds to.")],
    seconds: Annotated[float | None, typer.Option(help="After which training stops.", min=1)] = None,
    questions: Questions = None,
    recipe: Recipe = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Make a context into memory, verify it, and keep it if it is recalled. Exits with 1 if it is not."""
    with saying(as_json, "Stopped. The memory is as it was; the same command goes on from here.") as output:
        from . import remembering

        choices = choices_of(window, settings, trust)
        accepted = remembering.consolidate(
            output, model, file, memory, seconds, questions, recipe or [], choices, device
        )
    if not accepted:
        raise typer.Exit(1)


@app.command()
def train(
    model: Model,
    data: Annotated[list[Path], typer.Argument(help="UTF-8 texts, each one a document.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not hold anything.", show_default=False)],
    held_out: Annotated[list[Path] | None, typer.Option(help="A text to evaluate on, before and after.")] = None,
    steps: Annotated[int, typer.Option(min=1)] = 100,
    sequence_length: Annotated[int, typer.Option(help="In tokens, a multiple of the chunk.")] = 4096,
    gradients: Annotated[str, typer.Option(help="exact, truncated, first_order or none.")] = "exact",
    training: Annotated[
        list[str] | None, typer.Option("--training", metavar="NAME=VALUE", help="Any field of TTTTrainingConfig.")
    ] = None,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Meta-learn where the fast weights start and how fast they learn."""
    with saying(as_json, "Stopped. The same command goes on from the last checkpoint.") as output:
        from . import training as outer

        chosen = choices_of(window, settings, trust, preset)
        outer.train(
            output, model, data, out, held_out or [], steps, sequence_length, gradients, training or [], chosen, device
        )
