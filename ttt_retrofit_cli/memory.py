"""`memory`: memories on disk."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Base, ModelOptions, Saved, User, Yes

if TYPE_CHECKING:
    from rich.table import Table

    from ttt_retrofit.memory.facts import Fact

    from .output import Output

Store = Annotated[
    Path,
    typer.Argument(help="A user's directory, or one of several users, as given to --memory or --store.",
                   show_default=False),
]  # fmt: skip
Target = Annotated[Path, typer.Argument(metavar="OUT", help="Directory to write; must not exist.", show_default=False)]
Status = Annotated[
    str, typer.Option(help="'current', 'waiting', both as 'known', 'superseded', 'retracted', or 'all'.")
]
Version = Annotated[int | None, typer.Option(help="Of a store; the current one when not given.")]
FIRST = 5  # facts that `show` shows


def list_stored(out: "Output", directory: Store, user: User = None) -> None:
    """The users in a directory of several; of one user every version, and which one is current."""
    from ttt_retrofit.serving.stores import directory_of, users_in

    users = {} if user is not None else users_in(directory)
    if users:
        _list_users(out, directory, users)
    else:
        _list_versions(out, directory_of(directory, user), user)


def _list_users(out: "Output", directory: Path, users: dict[str, Path]) -> None:
    from ttt_retrofit import TTTError

    from .output import table
    from .stores import Kept, when

    shown = table(f"Users in {directory}", ["user", "made", "facts", "in words", "waiting", "messages"])
    documents: list[dict[str, object]] = []
    for name, path in users.items():
        try:
            kept = Kept.read(path)
        except TTTError as error:  # one that cannot be read hides no other
            shown.add_row(name, "unreadable")
            documents.append({"user": name, "directory": str(path), "error": str(error)})
            continue
        made = None if kept.memory is None else kept.memory.created
        shown.add_row(name, "" if made is None else when(made), *(f"{count:,}" for count in kept.facts.values()))
        documents.append({"user": name, "directory": str(path), "created": made, "facts": kept.facts})
    out.result({"directory": str(directory), "users": documents}, shown)


def _list_versions(out: "Output", directory: Path, user: str | None) -> None:
    from ttt_retrofit.chat.directory import open_store

    from .output import table
    from .stores import document_of, load_version, when

    store = open_store(directory)
    current, found = store.current(), {number: load_version(store, number) for number in store.versions()}
    columns = ["version", "", "made", "contexts", "facts", "in words", "recall", "kB"]
    shown = table(f"Memory of {user or directory.name} in {directory}", columns)
    for number, memory in found.items():
        recall = "" if memory.report is None or memory.report.recall is None else f"{memory.report.recall:.0%}"
        counts = (len(memory.entries), len(memory.facts()), len(memory.unlearned()))
        cells = [when(memory.created), *map(str, counts), recall, f"{memory.nbytes / 1e3:,.0f}"]
        shown.add_row(str(number), "current" if number == current else "", *cells)
    versions = [{"version": number} | document_of(memory) for number, memory in found.items()]
    out.result({"directory": str(directory), "current": current, "versions": versions}, shown)


def show(out: "Output", memory: Saved, user: User = None, version: Version = None) -> None:
    """Whose it is, how many facts are known and wait, the first facts, contexts, and the report."""
    from ttt_retrofit.serving.stores import directory_of

    from .output import facts, table
    from .stores import Kept, document_of, when

    directory = directory_of(memory, user)
    kept = Kept.read(directory, version)
    found, counts = kept.memory, kept.facts
    document = {"user": user, "version": kept.version, "known": counts}
    waiting = f"{counts['waiting']:,} facts of {kept.waiting:,} messages, which are still words"
    if found is None:
        out.result(document | {"entries": []}, f"Nothing is remembered in {directory} yet. Waiting: {waiting}.")
        return
    contexts = table("Contexts", ["name", "of", "made", "said", "facts", "tokens"])
    for entry in found.entries:
        days = sorted({fact.said_at for fact in entry.facts if fact.said_at})
        tokens = sum(source.tokens for source in entry.sources)
        kinds = ", ".join(source.kind for source in entry.sources)
        said = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""
        contexts.add_row(entry.name, kinds, when(entry.created), said, f"{len(entry.facts):,}", f"{tokens:,}")
    current = found.facts()
    named = {
        "memory of": f"{user or directory.name}, in {directory}",
        "base": found.base_name,
        "made": when(found.created) + ("" if kept.version is None else f", version {kept.version}"),
        "facts": f"{counts['known']:,} known, {counts['in_words']:,} of them as words",
        "waiting": waiting,
    }
    report = "No report: entries were combined or dropped."
    if found.report is not None:
        report = f"As the file says:\n{found.report}"
    first = [_facts_table("First facts", current[:FIRST])] if current else []
    more = [f"`ttt-retrofit memory facts` lists all {len(current):,}."] if len(current) > FIRST else []
    out.result(document | document_of(found), facts(named), *first, *more, contexts, report)


def show_facts(
    out: "Output",
    memory: Saved,
    user: User = None,
    version: Version = None,
    status: Status = "known",
) -> None:
    """What is known, fact by fact: of a memory, and what waits to become part of it."""
    from ttt_retrofit.chat.all_facts import shown
    from ttt_retrofit.serving.stores import directory_of

    from .stores import Kept

    found = shown(Kept.read(directory_of(memory, user), version).told, status)
    document = {"memory": str(memory), "facts": [fact.to_dict() for fact in found]}
    out.result(document, _facts_table(f"Facts in {memory}", found))


def _facts_table(title: str, facts: "list[Fact]") -> "Table":
    from .output import table

    shown = table(title, ["id", "who", "when", "state", "fact"])
    shown.columns[-1].justify, shown.columns[-1].no_wrap = "left", False
    for fact in facts:
        learned = {True: "learned", False: "words", None: ""}[fact.learned]
        state = learned if fact.status == "current" else fact.status
        who = fact.said_by if fact.provenance == "said" else f"{fact.said_by} ({fact.provenance})"
        shown.add_row(fact.id, who, fact.said_at or "", state, fact.text or "(deleted)")
    return shown


def ask(
    out: "Output",
    memory: Saved,
    question: Annotated[str, typer.Argument(help="Asked by itself, of the memory alone.", show_default=False)],
    options: ModelOptions,
    user: User = None,
    version: Version = None,
    model: Base = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of the answer, at most.", min=1)] = 256,
) -> None:
    """Ask a memory one question, which changes nothing. Messages that are not yet memory are not read."""
    from ttt_retrofit.serving.stores import directory_of

    from .loading import load_model, load_tokenizer
    from .stores import chosen_memory

    found = chosen_memory(directory_of(memory, user), version)
    name = model or found.base_name
    with out.aside.status(f"loading {name}"):
        speaker, tokenizer = load_model(name, options), load_tokenizer(name, options)
    answer = speaker.ask(found, question, tokenizer=tokenizer, do_sample=False, max_new_tokens=max_new_tokens)
    out.result({"memory": str(memory), "user": user, "question": question, "answer": answer}, answer)


def rollback(out: "Output", directory: Store, user: User = None, yes: Yes = False) -> None:
    """Back to the version before."""
    from ttt_retrofit.chat.directory import open_store
    from ttt_retrofit.serving.stores import changing, directory_of

    from .reviewing import confirm

    found = directory_of(directory, user)
    store = open_store(found)
    before = store.current()
    confirm(yes, f"Go back from version {before} of the memory in {found}?")
    with changing(found):
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
        Path,
        typer.Argument(help="What was given to `serve --store` or `chat --memory`, or holds such.", show_default=False),
    ],
    user: Annotated[
        str | None,
        typer.Argument(
            help="Where there are several, as `memory list` names them; after -- if it begins with a dash.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Delete all that a chat, a server or a store has of a user. None of them may be running."""
    from ttt_retrofit.serving.stores import directory_of, erase_one, is_of_one

    from .reviewing import confirm

    directory = directory_of(store, user)
    if user is not None or is_of_one(store):
        confirm(yes, f"Erase all words and memory of {user or store} in {directory}, with all versions?")
    erase_one(store, user)
    out.result(
        {"store": str(store), "user": user}, f"Erased: words and memory {f'of {user}' if user else f'in {store}'}."
    )
