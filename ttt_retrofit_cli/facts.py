"""`memory forget-fact`, `correct-fact`, `add-fact`: what a user's directory remembers, fact by fact."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Base, ModelOptions, Recipe, User, WriterOptions, Yes

if TYPE_CHECKING:
    from ttt_retrofit import ChatSession
    from ttt_retrofit.chat.fact_change import FactChange

    from .output import Output

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="As given to --memory.", show_default=False)]
Text = Annotated[str, typer.Argument(help="A sentence of the user, such as 'My dog is Bolt.'", show_default=False)]
Purge = Annotated[bool, typer.Option("--purge", help="Delete the earlier versions, too, which still hold it.")]
Since = Annotated[str | None, typer.Option(help="Since when, such as 2026-03-09; today when not given.")]


def forget_fact(
    out: "Output",
    directory: Directory,
    facts: Annotated[list[str], typer.Argument(metavar="ID...", help="See `memory facts`.", show_default=False)],
    options: ModelOptions,
    recipe: Recipe = None,
    user: User = None,
    model: Base = None,
    purge: Purge = False,
    yes: Yes = False,
) -> None:
    """Delete facts, and what was learned of them. Exits with 1 where they would still be answered."""
    from ttt_retrofit.chat.fact_change import FactChange
    from ttt_retrofit.serving.stores import directory_of

    from .reviewing import confirm

    directory = directory_of(directory, user)
    told = [_text_of(directory, fact) for fact in facts]
    confirm(yes, f"Delete {'; '.join(told)}{_with_versions(purge)}?")
    with _session(directory, model, WriterOptions(recipe=recipe), options, out) as session:
        _change(out, session, FactChange(tuple(facts), purge=purge), f"Deleted {len(facts)} facts.")


def correct_fact(
    out: "Output",
    directory: Directory,
    fact: Annotated[str, typer.Argument(metavar="ID", help="See `memory facts`.", show_default=False)],
    text: Text,
    making: WriterOptions,
    options: ModelOptions,
    user: User = None,
    model: Base = None,
    date: Since = None,
    purge: Purge = False,
    yes: Yes = False,
) -> None:
    """Put a fact in the place of another one. Exits with 1 where it is not learned, or the old one still answered."""
    from ttt_retrofit.chat.fact_change import FactChange
    from ttt_retrofit.serving.stores import directory_of

    from .reviewing import confirm

    directory = directory_of(directory, user)
    confirm(yes, f"Delete {_text_of(directory, fact)}, for {text!r}{_with_versions(purge)}?")
    with _session(directory, model, making, options, out) as session:
        _change(out, session, FactChange((fact,), text, date, purge), f"Corrected {fact}.")


def add_fact(
    out: "Output",
    directory: Directory,
    text: Text,
    making: WriterOptions,
    options: ModelOptions,
    user: User = None,
    model: Base = None,
    date: Since = None,
) -> None:
    """Add a fact that was said in no conversation. Exits with 1 where it is not learned."""
    from ttt_retrofit.chat.fact_change import FactChange
    from ttt_retrofit.serving.stores import directory_of

    directory = directory_of(directory, user)
    with _session(directory, model, making, options, out) as session:
        _change(out, session, FactChange((), text, date), "Added.")


def _text_of(directory: Path, fact: str) -> str:
    from ttt_retrofit import ConfigError
    from ttt_retrofit.util.shown import shown_in_line

    from .stores import Kept

    for known in Kept.read(directory).told:
        if known.id == fact:
            return repr(shown_in_line(str(known)))
    raise ConfigError(f"No fact has the id {fact!r}. `ttt-retrofit memory facts {directory}` lists them.")


def _with_versions(purge: bool) -> str:
    return ", and all earlier versions" if purge else ""


@contextmanager
def _session(
    directory: Path, model: str | None, making: WriterOptions, options: ModelOptions, out: "Output"
) -> Iterator["ChatSession"]:
    from ttt_retrofit.serving.stored_facts import StoredFacts

    from .sessions import SessionOpener

    out.stopped = "Stopped. The memory is as it was."
    with StoredFacts(directory, SessionOpener(model, making, options, out)).opened(None) as session:
        yield session


def _change(out: "Output", session: "ChatSession", change: "FactChange", done: str) -> None:
    of_words = session.at_once(change)
    report = session.change(change)
    version = session.store.current() if report.accepted else None
    kept = f"{done} Saved as version {version}." if report.accepted else "Not saved: the memory before it stays."
    kept = done if of_words else kept
    document = {"directory": str(session.directory), "version": version, "report": report.to_dict()}
    out.result(document, str(report), kept)
    if not report.accepted:
        raise typer.Exit(1)
