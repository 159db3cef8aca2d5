"""`consolidate`: a context made into memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Model, ModelOptions, RecipeOptions

if TYPE_CHECKING:
    from .output import Output


def consolidate(
    out: "Output",
    model: Model,
    file: Annotated[Path, typer.Argument(help="A text, or messages as JSON or JSONL; - is stdin.", show_default=False)],
    memory: Annotated[Path, typer.Option(help="Directory of the user whose memory this adds to.")],
    making: RecipeOptions,
    options: ModelOptions,
    seconds: Annotated[float | None, typer.Option(help="After which training stops.", min=1)] = None,
) -> None:
    """Make a context into memory, verify it, and keep it if it is recalled. Exits with 1 if it is not."""
    from ttt_retrofit.chat.directory import STORE, WORK
    from ttt_retrofit.memory.store import MemoryStore

    from .contexts import read_context
    from .loading import load_model, load_tokenizer
    from .recipes import read_questions, recipe

    out.stopped = "Stopped. The memory is as it was; the same command goes on from here."
    context, config, asked = read_context(file), recipe(making.recipe), read_questions(making.questions)
    reader, tokenizer = load_model(model, options), load_tokenizer(model, options)
    store = MemoryStore(memory / STORE)
    # Held all the while: what another one added meanwhile would be left out of the new version.
    with store.writing(), out.stages() as progress:
        made = reader.consolidate(
            context,
            tokenizer=tokenizer,
            config=config,
            budget=seconds,
            questions=asked,
            earlier=store.load(),
            load=False,
            progress=progress,
            work_dir=memory / WORK,
        )
        version = store.save(made) if made.report.accepted else None
    document = {"memory": str(memory), "version": version, "report": made.report.to_dict()}
    kept = "Not saved: the memory before it stays."
    if version is not None:
        kept = f"Saved as version {version} in {memory}."
    out.result(document, str(made.report), kept)
    if version is None:
        raise typer.Exit(1)
