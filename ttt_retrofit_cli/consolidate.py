"""`consolidate`: a context made into memory."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Model, ModelOptions, RecipeOptions, ReviewOptions

if TYPE_CHECKING:
    from .output import Output


def consolidate(
    out: "Output",
    model: Model,
    file: Annotated[Path, typer.Argument(help="A text, or messages as JSON or JSONL; - is stdin.", show_default=False)],
    memory: Annotated[Path, typer.Option(help="Directory of the user whose memory this adds to.")],
    making: RecipeOptions,
    options: ModelOptions,
    reviewing: ReviewOptions,
    date: Annotated[
        str | None, typer.Option(help="When it was said, such as 2026-03-09; a message's own comes first.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="After which training stops.", min=1)] = None,
) -> None:
    """Make a context into memory, verify it, and keep it if it is recalled. Exits with 1 if it is not."""
    from ttt_retrofit.chat.directory import STORE, WORK
    from ttt_retrofit.consolidation.facts.turns import day_of
    from ttt_retrofit.consolidation.facts.writers import writer_of
    from ttt_retrofit.memory.store import MemoryStore
    from ttt_retrofit.util.shown import shown_in_line

    from .contexts import read_context
    from .loading import load_model, load_tokenizer
    from .recipes import read_questions, recipe
    from .reviewing import one_by_one, policy_of

    out.stopped = "Stopped. The memory is as it was; the same command goes on from here."
    context, config, asked = read_context(file), recipe(making.recipe), read_questions(making.questions)
    policy, review = policy_of(reviewing.policy), one_by_one if reviewing.review else None
    said, writer = None if date is None else day_of(date, "--date"), writer_of(making.writer)
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
            writer=writer,
            date=said,
            earlier=store.load(),
            load=False,
            progress=False if reviewing.review else progress,  # a bar would be drawn over the questions
            review=review,
            policy=policy,
            work_dir=memory / WORK,
        )
        version = store.save(made) if made.report.accepted else None
    unlearned = made.unlearned() if version is not None else []
    document = {"memory": str(memory), "version": version, "report": made.report.to_dict()}
    document["unlearned"] = [fact.to_dict() for fact in unlearned]
    kept = "Not saved: the memory before it stays."
    if version is not None:
        kept = f"Saved as version {version} in {memory}."
    words = [f"Not learned, kept as words: {shown_in_line(str(fact))}" for fact in unlearned]
    out.result(document, str(made.report), *words, kept)
    if version is None:
        raise typer.Exit(1)
