"""`chat`: a conversation that becomes memory while nobody types, in a terminal or on a page."""

import threading
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Model, ModelOptions, NoteTokens, RecipeOptions, ReviewOptions, Split

if TYPE_CHECKING:
    from .output import Output

NEEDED = ("starlette", "uvicorn", "pydantic")  # of the page
PATIENCE = 3.0  # seconds of silence after which idle time begins


def chat(
    out: "Output",
    model: Model,
    making: RecipeOptions,
    options: ModelOptions,
    reviewing: ReviewOptions,
    memory: Annotated[Path | None, typer.Option(help="Directory of this user: conversation and memory.")] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="A system prompt; it is never remembered.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer, at most.", min=1)] = 256,
    page: Annotated[bool, typer.Option("--page", help="In a browser, with what is remembered beside it.")] = False,
    port: Annotated[int | None, typer.Option(help="Of the page; one that is free.", min=1, max=65535)] = None,
    split_special_tokens: Split = True,
    note_tokens: NoteTokens = 512,
) -> None:
    """Talk; older turns become memory while you are away from the keyboard."""
    from ttt_retrofit import ChatSession, MissingExtraError
    from ttt_retrofit.chat.person_reviewer import PersonReviewer
    from ttt_retrofit.consolidation.facts.writers import writer_of

    from .loading import load_model, load_tokenizer
    from .recipes import read_questions, recipe
    from .reviewing import policy_of
    from .temporary import passing_directory
    from .terminal import Terminal

    kept = "Nothing of what was said is kept." if memory is None else "What was said is kept, but no unfinished answer."
    out.stopped = f"Stopped. {kept}"
    missing = [name for name in NEEDED if page and find_spec(name) is None]
    if missing:
        raise MissingExtraError("--page", ", ".join(missing), "chat")
    policy, waiting = policy_of(reviewing.policy), PersonReviewer() if reviewing.review else None
    with nullcontext(memory) if memory else passing_directory() as directory:
        config, asked, writer = recipe(making.recipe), read_questions(making.questions), writer_of(making.writer)
        with out.aside.status(f"loading {model}"):
            speaker, tokenizer = load_model(model, options), load_tokenizer(model, options)
        session = ChatSession(
            speaker,
            tokenizer,
            directory,
            system=system,
            config=config,
            questions=asked,
            writer=writer,
            review=waiting,
            policy=policy,
            split_special_tokens=split_special_tokens,
            note_tokens=note_tokens,
        )
        kept = f"Kept in {memory}." if memory else "Nothing is kept when you leave; --memory DIR keeps it."
        if page:
            from ttt_retrofit.serving.page import PageController, launch

            with launch(PageController(session, max_new_tokens, PATIENCE, waiting), "ttt-retrofit", port) as url:
                out.result({"url": url}, f"The page is at {url}. {kept} Ctrl-C stops.")
                threading.Event().wait()
        out.remark(f"{kept} /help lists the commands.")
        talk = Terminal(out, session, max_new_tokens, PATIENCE, waiting)
        try:
            talk.run()
        finally:
            if waiting is not None:
                waiting.dismiss(close=True)
            session.close()
    document = {
        "directory": None if memory is None else str(memory),
        "turns": talk.turns,
        "consolidations": [report.to_dict() for report in talk.reports],
        "entries": [] if session.memory is None else session.memory.names(),
        "messages": session.messages,
    }
    out.result(document, "")
