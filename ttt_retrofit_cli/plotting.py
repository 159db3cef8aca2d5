"""`plot`: pictures of a text that is read, and of what a memory changes; on the terminal and as files."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ttt_retrofit import evaluation as measure
from ttt_retrofit.errors import MissingExtraError
from ttt_retrofit.evaluation import FULL, SINKS, TTT
from ttt_retrofit.viz import collect, text
from ttt_retrofit.viz.data import HOW_TO_READ

from .contexts import read_context, read_text
from .loading import Choices, load_model, load_tokenizer, token_ids
from .output import Output
from .remembering import chosen_memory

SHOWN = 180  # tokens of the surprise picture; its page has them all


def plot_reading(
    out: Output, name: str, file: Path, target: Path | None, tokens: int, choices: Choices, device: str | None
) -> None:
    """Loss by position, changes of weights, surprise and state, all from reading one text in three ways."""
    _check_matplotlib(target)
    story = read_text(file)
    model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)
    ids = token_ids(tokenizer, story, tokens)
    with out.bars([SINKS, TTT, FULL], ids.shape[1]) as bars:
        read = collect.text_read(model, tokenizer, ids, bars)
        read = collect.with_full_attention(read, measure.full_attention(model.unwrap(), ids, bars[FULL]))
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
        "model": name,
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


def plot_memory(
    out: Output,
    name: str,
    where: Path,
    file: Path,
    questions: list[str],
    target: Path | None,
    choices: Choices,
    device: str | None,
) -> None:
    """What a memory changes in the hidden states, against the context itself."""
    _check_matplotlib(target)
    context, memory = read_context(file), chosen_memory(where, None)
    model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)
    with out.aside.status("asking with the context, without, and with the memory"):
        effect = collect.memory_effect(model, tokenizer, memory, context, questions)
    files: dict[str, list[str]] = {}
    if target is not None:
        from ttt_retrofit.viz import figures, pages

        title = f"What the memory “{where.name}” changed"
        saved = pages.save(figures.memory_effect(effect), HOW_TO_READ["memory"], title, target / "memory")
        files["memory"] = [str(path) for path in saved]
    document = {
        "model": name,
        "memory": str(where),
        "questions": effect.questions,
        "answers_begin_with": effect.answers,
        "cosine_by_layer": dict(zip(("without", "with"), effect.closeness.mean(1).tolist())),
        "answer_log_probability_by_layer": dict(zip(("context", "without", "with"), effect.lens.mean(1).tolist())),
        "files": files,
        "how_to_read": HOW_TO_READ["memory"],
    }
    out.result(document, text.memory_effect(effect), f"{HOW_TO_READ['memory']}\n", *_where(files))


def _where(files: dict[str, list[str]]) -> list[str]:
    return [f"{kind}: {', '.join(paths)}" for kind, paths in files.items()]


def _check_matplotlib(target: Path | None) -> None:
    if target is not None and find_spec("matplotlib") is None:
        raise MissingExtraError("Writing pictures with --out (without, the terminal shows them)", "matplotlib", "viz")
