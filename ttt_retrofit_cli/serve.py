"""`serve`: a server with OpenAI's protocol, in which every user has a memory."""

from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import EngineOptions, Model, ModelOptions, NoteTokens, RayOptions, RecipeOptions, Split

if TYPE_CHECKING:
    from ttt_retrofit.serving.engine import Engine

    from .output import Output

NEEDED = ("starlette", "uvicorn", "pydantic")


def serve(
    out: "Output",
    model: Model,
    making: RecipeOptions,
    options: ModelOptions,
    cluster: RayOptions,
    before: EngineOptions,
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
    note_tokens: NoteTokens = 512,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Of a web page that may ask from a browser; repeat for more.")
    ] = None,
    user_header: Annotated[
        str | None, typer.Option(help="Header that names the user, such as X-OpenWebUI-User-Id.", show_default=False)
    ] = None,
    keep_versions: Annotated[int, typer.Option(help="Of each user's memory, the current one among them.", min=1)] = 3,
) -> None:
    """Serve OpenAI's protocol; every user has a memory, made while they are idle."""
    from ttt_retrofit import MissingExtraError

    verb, extra = ("serve --ray", "ray") if cluster.ray else ("serve", "serve")
    missing = [
        name
        for name in (*NEEDED, *["ray"] * cluster.ray, *["httpx"] * (before.engine is not None))
        if find_spec(name) is None
    ]
    if missing:
        raise MissingExtraError(verb, ", ".join(missing), extra)
    from ttt_retrofit.consolidation.facts.writers import writer_of
    from ttt_retrofit.serving.admission import Limits
    from ttt_retrofit.serving.auth import check_exposure
    from ttt_retrofit.serving.server import listen, make_server

    from .loading import load_model, load_tokenizer
    from .recipes import read_questions, recipe
    from .temporary import passing_directory

    kept = "Nothing of what was said is kept." if store is None else "What was said is kept, but no unfinished answer."
    out.stopped = f"Stopped. {kept}"
    origins = allow_origin or []
    check_exposure(host, api_key, origins)
    config, asked, writer = recipe(making.recipe), read_questions(making.questions), writer_of(making.writer)
    local = Path(model).expanduser()
    served = local.resolve().name if local.exists() else model
    limits = Limits(max_body, max_prompt, max_new_tokens, max_concurrent, max_per_user, max_unlearned)
    engine = connected(before, cluster)
    if cluster.ray:
        from .serve_ray import serve_ray

        session = {"config": config, "questions": asked, "writer": writer, "note_tokens": note_tokens}
        kept_for = {"idle": idle, "keep_versions": keep_versions, "session": session}
        answers = {"key": api_key, "origins": tuple(origins), "limits": limits, "user_header": user_header,
                   "batch": batch, "split_special_tokens": split_special_tokens}  # fmt: skip
        return serve_ray(out, cluster, model, options, served, store, (host, port), kept_for, answers)
    # Bound before the model is loaded: that the port is taken is said at once.
    listening, url = listen(host, port)
    with listening, nullcontext(store) if store else passing_directory() as directory:
        with out.aside.status(f"loading {model}"):
            speaker, tokenizer = load_model(model, options), load_tokenizer(model, options)
        server = make_server(
            speaker,
            tokenizer,
            directory,
            name=served,
            key=api_key,
            origins=origins,
            limits=limits,
            user_header=user_header,
            idle=idle,
            batch=batch,
            keep_versions=keep_versions,
            config=config,
            questions=asked,
            writer=writer,
            split_special_tokens=split_special_tokens,
            note_tokens=note_tokens,
            engine=engine,
        )
        kept = f"Memories are kept in {store}." if store else "Nothing is kept; --store DIR keeps memories."
        document = {"url": url, "model": served, "store": None if store is None else str(store)}
        by = "" if engine is None else f", answered by {engine.kind} at {engine.url}"
        out.result(document, f"Serving {served} at {url}{by}. {kept} Ctrl-C stops.")
        server.run(sockets=[listening])


def connected(before: EngineOptions, cluster: RayOptions) -> "Engine | None":
    """The engine that answers; None where the model of this process does.

    Raises
    ------
    ConfigError
        For options that go together or not, and when the engine cannot be reached.
    """
    from ttt_retrofit.errors import ConfigError

    if before.engine is None:
        given = [name for name, value in (("kind", before.engine_kind), ("key", before.engine_key)) if value]
        given = [f"--engine-{name}" for name in given] + ["--adapters"] * (before.adapters is not None)
        if given:
            raise ConfigError(f"{given[0]} is for a gateway before an engine. Give --engine URL as well.")
        return None
    if cluster.ray:
        raise ConfigError(
            "--engine and --ray cannot be given together: replicas are no gateways. Leave one of them out."
        )
    if before.adapters is None:
        raise ConfigError(
            "--engine needs --adapters DIR: a directory for the memories as adapters, which the engine sees under the "
            "same path."
        )
    from ttt_retrofit.serving.engine_kinds import connect

    return connect(
        before.engine, before.adapters, kind=before.engine_kind, key=before.engine_key, rank=before.adapter_rank
    )
