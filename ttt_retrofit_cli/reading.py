"""`read`, `eval` and `demo`: texts read, with the loss and the state that reading gave."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from ttt_retrofit import evaluation as measure
from ttt_retrofit.errors import InputError
from ttt_retrofit.evaluation import FULL, SINKS, SYSTEMS, TTT, Reading
from ttt_retrofit.streaming.cache import TTTCache
from ttt_retrofit.util.texts import text_ids

from .contexts import read_text
from .loading import Choices, check_file, load_model, load_tokenizer, token_ids
from .output import Output, facts, megabytes, table


def read(
    out: Output,
    model: str,
    files: list[Path],
    save: Path | None,
    begun: Path | None,
    choices: Choices,
    device: str | None,
) -> None:
    """Read files one after another into one state."""
    if save is not None:
        check_file(save)  # before the reading that would be lost with it
    texts = [read_text(path) for path in files]
    reader, tokenizer = load_model(model, choices, device), load_tokenizer(model, choices)
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


def evaluate(
    out: Output, model: str, files: list[Path], tokens: int | None, choices: Choices, device: str | None
) -> None:
    """Loss by quarter of every file under full attention, with window and sinks, and with updates."""
    _compare(out, model, files, tokens, choices, device, (FULL, SINKS, TTT))


def demo(out: Output, model: str | None, file: Path | None, tokens: int, choices: Choices, device: str | None) -> None:
    """The four ways of reading, on a model and a text of the user's."""
    if model is None or file is None:
        raise InputError(
            "The demo's own model and text come with the repository, not with the package: clone it and run "
            "`make demo`. Here, name a model and a text: ttt-retrofit demo MODEL FILE."
        )
    _compare(out, model, [file], tokens, choices, device, SYSTEMS)


def _compare(
    out: Output,
    name: str,
    files: list[Path],
    most: int | None,
    choices: Choices,
    device: str | None,
    systems: tuple[str, ...],
) -> None:
    texts = [read_text(path) for path in files]
    model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)
    ids = [token_ids(tokenizer, text, most) for text in texts]
    config, readings = model.ttt, [dict[str, Reading]() for _ in files]
    if config.sliding_window is None:
        raise InputError(
            "The model reads without a sliding window, so there is nothing to compare. Give --set sliding_window=N."
        )
    for path, part in zip(files, ids):
        if part.shape[1] < 4 * config.chunk_size:
            out.remark(
                f"{path}: {part.shape[1]} tokens are fewer than four chunks of {config.chunk_size}; little is learned."
            )
    with out.bars([name for name in systems if name != FULL] + [FULL], sum(part.shape[1] for part in ids)) as bars:
        for system in systems:
            if system != FULL:
                measure.configure(model, config, system)
                for found, part in zip(readings, ids):
                    found[system] = measure.streaming(model, part, bars[system])
        measure.configure(model, config, TTT)
        plain = model.unwrap()
        for found, part in zip(readings, ids):
            found[FULL] = measure.full_attention(plain, part, bars[FULL])
    ordered = [{system: found[system] for system in systems} for found in readings]
    documents = [_document(path, part, found) for path, part, found in zip(files, ids, ordered)]
    tables = [
        _table(f"{path}, {part.shape[1]:,} tokens: loss in nats/token, mean and by quarter", found, config.in_words)
        for path, part, found in zip(files, ids, ordered)
    ]
    out.result({"model": name, "ttt": config.to_dict(), "files": documents}, *tables)


def _document(path: Path, ids: Tensor, readings: dict[str, Reading]) -> dict[str, Any]:
    return {
        "file": str(path),
        "tokens": ids.shape[1],
        "systems": {
            name: {
                "loss": reading.mean,
                "loss_by_quarter": reading.by_quarter,
                "tokens_per_second": reading.tokens_per_second,
                "state_bytes": reading.state_bytes,
            }
            for name, reading in readings.items()
        },
        "gap_closed": measure.gap_closed(readings),
    }


def _table(title: str, readings: dict[str, Reading], caption: str) -> Table:
    """Nats per token, mean and by quarter; lower is better."""
    columns = ["", "mean", "1st", "2nd", "3rd", "4th", "gap\nclosed", "tokens\n/s", "state\nMB"]
    shown = table(title, columns, caption)
    closed = measure.gap_closed(readings)
    gaps = {FULL: "100%", SINKS: "0%", TTT: "no gap" if closed is None else f"{closed:.0%}"}
    for name, reading in readings.items():
        losses = [f"{loss:.3f}" for loss in (reading.mean, *reading.by_quarter)]
        last = [gaps.get(name, ""), f"{reading.tokens_per_second:.0f}", f"{reading.state_bytes / 1e6:.0f}"]
        shown.add_row(name, *losses, *last, style="bold" if name == TTT else None)
    return shown
