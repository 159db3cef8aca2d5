"""`read`: texts read into one state."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Files, Model, ModelOptions

if TYPE_CHECKING:
    from .output import Output


def read(
    out: "Output",
    model: Model,
    files: Files,
    options: ModelOptions,
    save: Annotated[Path | None, typer.Option(help="Write the state, for TTTCache.load or --from.")] = None,
    begun: Annotated[Path | None, typer.Option("--from", help="Go on from a saved state.")] = None,
) -> None:
    """Read texts one after another, learning on the way."""
    from ttt_retrofit import TTTCache
    from ttt_retrofit.util.texts import text_ids

    from .contexts import read_text
    from .loading import load_model, load_tokenizer
    from .output import facts, megabytes
    from .targets import check_file

    out.stopped = "Stopped. No state was written."
    if save is not None:
        check_file(save)  # before the reading that would be lost with it
    texts = [read_text(path) for path in files]
    reader, tokenizer = load_model(model, options), load_tokenizer(model, options)
    cache = reader.new_cache() if begun is None else TTTCache.load(begun, reader)
    # What the tokenizer puts before a text stands before all that is read into a state, once.
    ids = [text_ids(tokenizer, text, begins=index == 0 and begun is None) for index, text in enumerate(texts)]
    total, started = sum(map(len, ids)), time.perf_counter()
    with out.bars(["reading"], total) as bars:
        for part in ids:
            cache = reader.read(part, past_key_values=cache, progress=bars["reading"])
    seconds = time.perf_counter() - started
    if save is not None:
        cache.save(save)
    losses = cache.loss_by_chunk[0].tolist() if cache.losses else []
    document = {
        "model": model,
        "files": [{"file": str(path), "tokens": len(part)} for path, part in zip(files, ids)],
        "inner_rule": reader.ttt.inner_rule,
        "tokens_seen": int(cache.tokens_seen[0]),
        "loss_by_chunk": losses,
        "seconds": seconds,
        "state_bytes": cache.nbytes,
        "saved": None if save is None else str(save),
    }
    none_yet = f"none; the first update comes after a chunk of {reader.ttt.chunk_size} tokens"
    shown = {
        "read": f"{total:,} tokens in {seconds:.1f} s; {document['tokens_seen']:,} in all",
        "inner rule": reader.ttt.inner_rule,
        "loss, nats/token": f"{losses[0]:.3f} of the first chunk, {losses[-1]:.3f} of the last" if losses else none_yet,
        "state": megabytes(cache.nbytes) + ("" if save is None else f", saved in {save}"),
    }
    out.result(document, facts(shown))
