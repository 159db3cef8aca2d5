"""`memory`: memories on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .options import Saved

if TYPE_CHECKING:
    from .output import Output

Store = Annotated[Path, typer.Argument(help="A user's directory, as given to --memory.", show_default=False)]
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not exist.", show_default=False)]
Shown = Literal["current", "superseded", "retracted", "all"]
Version = Annotated[int | None, typer.Option(help="Of a store; the current one when not given.")]


def list_versions(out: "Output", directory: Store) -> None:
    """Every version, and which one is current."""
    from ttt_retrofit.chat.directory import open_store

    from .output import table
    from .stores import document_of, load_version, when

    store = open_store(directory)
    current, found = store.current(), {number: load_version(store, number) for number in store.versions()}
    shown = table(f"Memory in {directory}", ["version", "", "made", "contexts", "recall", "drift", "kB"])
    for number, memory in found.items():
        recall = "" if memory.report is None or memory.report.recall is None else f"{memory.report.recall:.0%}"
        drift = "" if memory.report is None else f"{memory.report.drift_loss:+.2%}"
        cells = [when(memory.created), str(len(memory.entries)), recall, drift, f"{memory.nbytes / 1e3:,.0f}"]
        shown.add_row(str(number), "current" if number == current else "", *cells)
    versions = [{"version": number} | document_of(memory) for number, memory in found.items()]
    out.result({"directory": str(directory), "current": current, "versions": versions}, shown)


def show(out: "Output", memory: Saved, version: Version = None) -> None:
    """Contexts, sizes and the report of one memory."""
    from .output import table
    from .stores import chosen_memory, document_of, when

    found = chosen_memory(memory, version)
    shown = table(f"{found.base_name}, {found.nbytes / 1e3:,.0f} kB, made {when(found.created)}",
                  ["entry", "made", "contexts", "tokens", "facts", "lessons", "kB"])  # fmt: skip
    for entry in found.entries:
        tokens = sum(source.tokens for source in entry.sources)
        figures = (len(entry.sources), tokens, len(entry.facts), len(entry.lessons), round(entry.nbytes / 1e3))
        shown.add_row(entry.name, when(entry.created), *(f"{figure:,}" for figure in figures))
    report = "No report: entries were combined or dropped."
    if found.report is not None:
        report = f"As the file says:\n{found.report}"
    out.result(document_of(found), shown, report)


def show_facts(
    out: "Output",
    memory: Saved,
    version: Version = None,
    status: Annotated[Shown, typer.Option(help="Facts that are shown.")] = "current",
) -> None:
    """What a memory holds, fact by fact."""
    from .output import table
    from .stores import chosen_memory

    found = chosen_memory(memory, version).facts(None if status == "all" else status)
    shown = table(f"Facts in {memory}", ["id", "who", "when", "state", "fact"])
    shown.columns[-1].justify, shown.columns[-1].no_wrap = "left", False
    for fact in found:
        learned = {True: "learned", False: "words", None: ""}[fact.learned]
        state = learned if fact.status == "current" else fact.status
        who = fact.said_by if fact.provenance == "said" else f"{fact.said_by} ({fact.provenance})"
        shown.add_row(fact.id, who, fact.said_at or "", state, fact.text or "(deleted)")
    out.result({"memory": str(memory), "facts": [fact.to_dict() for fact in found]}, shown)


def rollback(out: "Output", directory: Store) -> None:
    """Back to the version before."""
    from ttt_retrofit.chat.directory import open_store

    store = open_store(directory)
    before = store.current()
    store.rollback()
    now = store.current()
    state = "nothing is remembered now" if now is None else f"version {now} is current now"
    out.result(
        {"directory": str(directory), "before": before, "current": now}, f"Rolled back version {before}: {state}."
    )


def combine(
    out: "Output",
    sources: Annotated[list[Path], typer.Argument(help="Memories or users' directories.", show_default=False)],
    target: Target,
    weight: Annotated[list[float] | None, typer.Option(help="Factor of the terms of each, in order.")] = None,
) -> None:
    """Write one memory with the entries of several."""
    from ttt_retrofit import Memory

    from .stores import chosen_memory, document_of
    from .targets import check_new

    check_new(target)
    memory = Memory.combine([chosen_memory(source, None) for source in sources], weight or None)
    memory.save(target)
    said = f"{target}: {len(memory.entries)} entries of {len(sources)} memories."
    out.result({"saved": str(target)} | document_of(memory), said)


def erase(
    out: "Output",
    store: Annotated[
        Path, typer.Argument(help="What was given to `serve --store`, or to `chat --memory`.", show_default=False)
    ],
    user: Annotated[
        str | None,
        typer.Argument(
            help="Of a server, as the requests named them; after -- if it begins with a dash.", show_default=False
        ),
    ] = None,
) -> None:
    """Delete all that a chat or a server, which must not be running, has stored of a user."""
    from ttt_retrofit import InputError
    from ttt_retrofit.chat.directory import erase_directory, is_session_directory
    from ttt_retrofit.serving.directories import erase_stored

    one_user = is_session_directory(store)
    if user is None:
        if not one_user:
            raise InputError(
                f"{store} holds neither words nor memory of one user. Expected what was given to `chat --memory` "
                "or `consolidate --memory`; of a server's store, name the user as well: memory erase STORE USER."
            )
        erase_directory(store)
        out.result({"store": str(store), "user": None}, f"Erased: words and memory in {store}.")
        return
    if one_user:
        raise InputError(
            f"{store} is the directory of one user, not a server's store. To erase it: memory erase {store}"
        )
    if not erase_stored(store, user):
        raise InputError(f"Nothing is stored of a user {user!r} in {store}.")
    out.result({"store": str(store), "user": user}, f"Erased: words and memory of {user}.")
