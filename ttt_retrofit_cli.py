"""What can be said on the command line: verbs, options, help. What they do is in `ttt_retrofit.cli`.

It stands beside the package because importing that takes seconds (torch, transformers), and `--help` should not; so
every verb imports what it needs when it runs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ttt_retrofit.cli.loading import Choices
    from ttt_retrofit.cli.output import Output

app = typer.Typer(
    help="Language models that keep learning while they read, and remember what they were told.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
STOPPED = "Stopped. Nothing was left half done."

Model = Annotated[
    str, typer.Argument(help="Directory or Hub id, of a base or of a converted model.", show_default=False)
]
Files = Annotated[list[Path], typer.Argument(help="UTF-8 texts; - is stdin.", show_default=False)]
Preset = Annotated[str | None, typer.Option(help="'default' or 'fast', for a base.")]
Window = Annotated[int | None, typer.Option(help="Tokens that attention sees.", min=1)]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any field of TTTConfig.")]
Recipe = Annotated[
    list[str] | None, typer.Option("--recipe", metavar="NAME=VALUE", help="Any field of ConsolidationConfig.")
]
Questions = Annotated[Path | None, typer.Option(help="What may be asked later, a line each; else the model asks.")]
Device = Annotated[str | None, typer.Option(help="Such as cuda:0; the GPU if there is one.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")]


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
        typer.echo(f"\n{stopped}", err=True)
        raise typer.Exit(130) from None
    except _expected() as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        raise typer.Exit(1) from None


def _expected() -> tuple[type[Exception], ...]:
    """What a user can do something about; anything else is a bug, and its traceback is wanted."""
    from ttt_retrofit import TTTError

    return TTTError, OSError


def _choices(window: int | None, settings: list[str] | None, preset: str | None = None, **defaults: int) -> Choices:
    from ttt_retrofit.cli.loading import Choices

    return Choices(preset, window, tuple(settings or ()), defaults)


@app.command()
def convert(
    base: Annotated[str, typer.Argument(help="Directory or Hub id of a base.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="Directory to write; must not hold anything.", show_default=False)],
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Write a base as a checkpoint that learns while it reads."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import models

        models.convert(output, base, out, _choices(window, settings, preset))


@app.command()
def info(
    model: Model, preset: Preset = None, window: Window = None, settings: Settings = None, as_json: Json = False
) -> None:
    """Family, layers, parameters that learn, bytes of state; loads no weights."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import models

        models.info(output, model, _choices(window, settings, preset))


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
    as_json: Json = False,
) -> None:
    """Read texts one after another, learning on the way."""
    with saying(as_json, "Stopped. No state was written.") as output:
        from ttt_retrofit.cli import reading

        reading.read(output, model, files, save, begun, _choices(window, settings, preset), device)


@app.command("eval")
def evaluate(
    model: Model,
    files: Files,
    tokens: Annotated[int | None, typer.Option(help="Of each text, at most.", min=2)] = None,
    preset: Preset = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Loss by quarter of a text: full attention, window + sinks, and with updates."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import reading

        reading.evaluate(output, model, files, tokens, _choices(window, settings, preset), device)


@app.command()
def demo(
    model: Annotated[str | None, typer.Argument(help="Directory or Hub id.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Argument(help="A long text.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(help="Of the text, at most.", min=2)] = 6144,
    settings: Settings = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """One text read in four ways, through a window of 512 tokens."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import reading

        reading.demo(output, model, file, tokens, _choices(None, settings, sliding_window=512), device)


@app.command()
def chat(
    model: Model,
    memory: Annotated[Path | None, typer.Option(help="Directory of this user: conversation and memory.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 256,
    questions: Questions = None,
    recipe: Recipe = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Talk; older turns become memory while you are away from the keyboard."""
    with saying(as_json, "Stopped. What was said is kept, except an answer that was not finished.") as output:
        from ttt_retrofit.cli import chatting

        choices = _choices(window, settings)
        chatting.chat(output, model, memory, max_new_tokens, questions, recipe or [], choices, device)


@app.command()
def consolidate(
    model: Model,
    file: Annotated[Path, typer.Argument(help="A text, or chat messages in a .json file.", show_default=False)],
    memory: Annotated[Path, typer.Option(help="Directory of the user whose memory this adds to.")],
    seconds: Annotated[float | None, typer.Option(help="After which training stops.", min=1)] = None,
    questions: Questions = None,
    recipe: Recipe = None,
    window: Window = None,
    settings: Settings = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Make a context into memory, verify it, and keep it if it is recalled. Exits with 1 if it is not."""
    with saying(as_json, "Stopped. The memory is as it was; the same command goes on from here.") as output:
        from ttt_retrofit.cli import remembering

        choices = _choices(window, settings)
        accepted = remembering.consolidate(
            output, model, file, memory, seconds, questions, recipe or [], choices, device
        )
    if not accepted:
        raise typer.Exit(1)


memories = typer.Typer(help="Memories on disk: versions, contents, rollback, export.", no_args_is_help=True)
app.add_typer(memories, name="memory")
Store = Annotated[Path, typer.Argument(help="A user's directory, as given to --memory.", show_default=False)]
Saved = Annotated[Path, typer.Argument(help="A user's directory, or a memory saved alone.", show_default=False)]
Target = Annotated[Path, typer.Argument(help="Directory to write; must not exist.", show_default=False)]
Version = Annotated[int | None, typer.Option(help="Of a store; the one that speaks when not given.")]


@memories.command("list")
def memory_list(directory: Store, as_json: Json = False) -> None:
    """Every version, and which one speaks."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import remembering

        remembering.show_list(output, directory)


@memories.command("show")
def memory_show(memory: Saved, version: Version = None, as_json: Json = False) -> None:
    """Contexts, sizes and the report of one memory."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import remembering

        remembering.show(output, memory, version)


@memories.command("rollback")
def memory_rollback(directory: Store, as_json: Json = False) -> None:
    """Back to the version before."""
    with saying(as_json) as output:
        from ttt_retrofit.cli import remembering

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
        from ttt_retrofit.cli import remembering

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
        from ttt_retrofit.cli import remembering

        remembering.combine(output, sources, out, weight)


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
    as_json: Json = False,
) -> None:
    """Meta-learn where the fast weights start and how fast they learn."""
    with saying(as_json, "Stopped. The same command goes on from the last checkpoint.") as output:
        from ttt_retrofit.cli import training as outer

        chosen = _choices(window, settings, preset)
        outer.train(
            output, model, data, out, held_out or [], steps, sequence_length, gradients, training or [], chosen, device
        )


def main() -> None:
    """The entry point `ttt-retrofit`."""
    app()


if __name__ == "__main__":
    main()
