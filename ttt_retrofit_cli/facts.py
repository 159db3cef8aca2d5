"""`memory forget-fact`, `correct-fact`, `add-fact`: what a user's directory remembers, fact by fact."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import ModelOptions, Recipe, WriterOptions

if TYPE_CHECKING:
    from ttt_retrofit import ChatSession
    from ttt_retrofit.memory.report import Report

    from .output import Output

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="As given to --memory.", show_default=False)]
Text = Annotated[str, typer.Argument(help="A sentence of the user, such as 'My dog is Bolt.'", show_default=False)]
Base = Annotated[
    str | None, typer.Option("--model", help="Directory or Hub id; the base that the memory names.", show_default=False)
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Purge = Annotated[bool, typer.Option("--purge", help="Delete the earlier versions, too, which still hold it.")]
Since = Annotated[str | None, typer.Option(help="Since when, such as 2026-03-09; today when not given.")]


def forget_fact(
    out: "Output",
    directory: Directory,
    facts: Annotated[list[str], typer.Argument(metavar="ID...", help="See `memory facts`.", show_default=False)],
    options: ModelOptions,
    recipe: Recipe = None,
    model: Base = None,
    purge: Purge = False,
    yes: Yes = False,
) -> None:
    """Delete facts, and what was learned of them. Exits with 1 where they would still be answered."""
    told = [_text_of(directory, fact) for fact in facts]
    _confirm(yes, f"Delete {'; '.join(told)}{_with_versions(purge)}?")
    session = _session(directory, model, WriterOptions(recipe=recipe), options, out)
    _end(out, session, session.forget_fact(*facts, purge=purge), f"Deleted {len(facts)} facts.")


def correct_fact(
    out: "Output",
    directory: Directory,
    fact: Annotated[str, typer.Argument(metavar="ID", help="See `memory facts`.", show_default=False)],
    text: Text,
    making: WriterOptions,
    options: ModelOptions,
    model: Base = None,
    date: Since = None,
    purge: Purge = False,
    yes: Yes = False,
) -> None:
    """Put a fact in the place of another one. Exits with 1 where it is not learned, or the old one still answered."""
    _confirm(yes, f"Delete {_text_of(directory, fact)}, for {text!r}{_with_versions(purge)}?")
    session = _session(directory, model, making, options, out)
    _end(out, session, session.correct_fact(fact, text, date=date, purge=purge), f"Corrected {fact}.")


def add_fact(
    out: "Output",
    directory: Directory,
    text: Text,
    making: WriterOptions,
    options: ModelOptions,
    model: Base = None,
    date: Since = None,
) -> None:
    """Add a fact that was said in no conversation. Exits with 1 where it is not learned."""
    session = _session(directory, model, making, options, out)
    _end(out, session, session.add_fact(text, date), "Added.")


def _text_of(directory: Path, fact: str) -> str:
    from ttt_retrofit import ConfigError
    from ttt_retrofit.util.shown import shown_in_line

    from .stores import chosen_memory

    memory = chosen_memory(directory, None)
    for known in memory.facts(None):
        if known.id == fact:
            return repr(shown_in_line(str(known)))
    raise ConfigError(f"No fact has the id {fact!r}. `ttt-retrofit memory facts {directory}` lists them.")


def _with_versions(purge: bool) -> str:
    return ", and all earlier versions" if purge else ""


def _confirm(yes: bool, question: str) -> None:
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(1)


def _session(
    directory: Path, model: str | None, making: WriterOptions, options: ModelOptions, out: "Output"
) -> "ChatSession":
    from ttt_retrofit import ChatSession, InputError
    from ttt_retrofit.chat.directory import is_session_directory
    from ttt_retrofit.consolidation.facts.writers import writer_of

    from .loading import load_model, load_tokenizer
    from .recipes import recipe
    from .stores import chosen_memory

    out.stopped = "Stopped. The memory is as it was."
    config, writer = recipe(making.recipe), writer_of(making.writer)
    if model is None:
        if not is_session_directory(directory):
            raise InputError(f"{directory} holds no memory yet, which would name its base. Give --model.")
        model = chosen_memory(directory, None).base_name
    with out.aside.status(f"loading {model}"):
        reader, tokenizer = load_model(model, options), load_tokenizer(model, options)
    return ChatSession(reader, tokenizer, directory, config=config, writer=writer)


def _end(out: "Output", session: "ChatSession", report: "Report", done: str) -> None:
    version = session.store.current() if report.accepted else None
    kept = f"{done} Saved as version {version}." if report.accepted else "Not saved: the memory before it stays."
    document = {"directory": str(session.directory), "version": version, "report": report.to_dict()}
    out.result(document, str(report), kept)
    if not report.accepted:
        raise typer.Exit(1)
