"""`plot`: pictures of a text that is read, and of what a memory changes; on the terminal and as files."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Model, ModelOptions, Saved

if TYPE_CHECKING:
    from .output import Output

Folder = Annotated[Path | None, typer.Option("--out", help="Directory for PNG and HTML files.")]
SHOWN = 180  # tokens of the surprise picture; its page has them all


def reading(
    out: "Output",
    model: Model,
    file: Annotated[Path, typer.Argument(help="A UTF-8 text; - is stdin.", show_default=False)],
    options: ModelOptions,
    target: Folder = None,
    tokens: Annotated[int, typer.Option(help="Of the text, at most.", min=2)] = 6144,
) -> None:
    """Loss by position, which layers learned when, surprise over the text, and bytes of state."""
    from ttt_retrofit.evaluation import FULL, SINKS, TTT, full_attention
    from ttt_retrofit.viz import collect, text
    from ttt_retrofit.viz.data import HOW_TO_READ

    from .contexts import read_text
    from .loading import load_model, load_tokenizer, token_ids

    _check_matplotlib(target)
    story = read_text(file)
    reader, tokenizer = load_model(model, options), load_tokenizer(model, options)
    ids = token_ids(tokenizer, story, tokens)
    with out.bars([SINKS, TTT, FULL], ids.shape[1]) as bars:
        read = collect.text_read(reader, tokenizer, ids, bars)
        read = collect.with_full_attention(read, full_attention(reader.unwrap(), ids, bars[FULL]))
    first = max(len(read.tokens) - SHOWN, 0)
    seen = {
        "loss": text.loss_by_position(read),
        "weights": text.weight_changes(read),
        "surprise": text.surprise(read, first, SHOWN),
        "state": text.state_bytes(read),
    }
    files: dict[str, list[str]] = {}
    if target is not None:
        from ttt_retrofit.viz import figures, pages

        drawn = {
            "loss": figures.loss_by_position(read),
            "weights": figures.weight_changes(read),
            "surprise": figures.surprise(read, first, SHOWN),
            "state": figures.state_bytes(read),
        }
        for kind, figure in drawn.items():
            title = f"{kind.capitalize()}: {file.name}, {len(read.tokens):,} tokens"
            files[kind] = [str(path) for path in pages.save(figure, HOW_TO_READ[kind], title, target / kind)]
        title = f"Surprise: {file.name}, {len(read.tokens):,} tokens"
        (target / "surprise.html").write_text(pages.surprise(read, title, HOW_TO_READ["surprise"]), encoding="utf-8")
    document = {
        "model": model,
        "file": str(file),
        "tokens": len(read.tokens),
        "loss": {SINKS: read.without.mean().item(), TTT: read.updated.mean().item()},
        "moved": dict(zip(read.sites, read.moved.tolist())),
        "state_bytes": {system: points[-1][1] for system, points in read.state.items()},
        "files": files,
        "how_to_read": {kind: HOW_TO_READ[kind] for kind in seen},
    }
    shown = [part for kind, picture in seen.items() for part in (picture, f"{HOW_TO_READ[kind]}\n")]
    out.result(document, *shown, *_where(files))


def effect(
    out: "Output",
    model: Model,
    memory: Saved,
    context: Annotated[Path, typer.Argument(help="What the memory was made of.", show_default=False)],
    question: Annotated[list[str], typer.Option(help="That the context answers; repeat it for more.")],
    options: ModelOptions,
    target: Folder = None,
) -> None:
    """What a memory changes in the hidden states, layer by layer, against the context itself."""
    from ttt_retrofit.viz import collect, text
    from ttt_retrofit.viz.data import HOW_TO_READ

    from .contexts import read_context
    from .loading import load_model, load_tokenizer
    from .stores import chosen_memory

    _check_matplotlib(target)
    said, remembered = read_context(context), chosen_memory(memory, None)
    speaker, tokenizer = load_model(model, options), load_tokenizer(model, options)
    with out.aside.status("asking with the context, without, and with the memory"):
        changed = collect.memory_effect(speaker, tokenizer, remembered, said, question)
    files: dict[str, list[str]] = {}
    if target is not None:
        from ttt_retrofit.viz import figures, pages

        title = f"What the memory “{memory.name}” changed"
        saved = pages.save(figures.memory_effect(changed), HOW_TO_READ["memory"], title, target / "memory")
        files["memory"] = [str(path) for path in saved]
    document = {
        "model": model,
        "memory": str(memory),
        "questions": changed.questions,
        "answers_begin_with": changed.answers,
        "cosine_by_layer": dict(zip(("without", "with"), changed.closeness.mean(1).tolist())),
        "answer_log_probability_by_layer": dict(zip(("context", "without", "with"), changed.lens.mean(1).tolist())),
        "files": files,
        "how_to_read": HOW_TO_READ["memory"],
    }
    out.result(document, text.memory_effect(changed), f"{HOW_TO_READ['memory']}\n", *_where(files))


def _where(files: dict[str, list[str]]) -> list[str]:
    return [f"{kind}: {', '.join(paths)}" for kind, paths in files.items()]


def _check_matplotlib(target: Path | None) -> None:
    if target is not None and find_spec("matplotlib") is None:
        from ttt_retrofit import MissingExtraError

        raise MissingExtraError("Writing pictures with --out (without, the terminal shows them)", "matplotlib", "viz")
