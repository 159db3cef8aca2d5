"""Systems of reading compared on files: what `eval` and `demo` show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from ttt_retrofit import evaluation
from ttt_retrofit.errors import InputError
from ttt_retrofit.evaluation import FULL, SINKS, TTT, Reading

from .contexts import read_text
from .loading import load_model, load_tokenizer, token_ids
from .options import ModelOptions
from .output import Output, table


def compare(
    out: Output,
    name: str,
    files: list[Path],
    most: int | None,
    options: ModelOptions,
    systems: tuple[str, ...],
) -> None:
    """Read every file under every system, and show their losses side by side."""
    texts = [read_text(path) for path in files]
    model, tokenizer = load_model(name, options), load_tokenizer(name, options)
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
                evaluation.configure(model, config, system)
                for found, part in zip(readings, ids):
                    found[system] = evaluation.streaming(model, part, bars[system])
        evaluation.configure(model, config, TTT)
        plain = model.unwrap()
        for found, part in zip(readings, ids):
            found[FULL] = evaluation.full_attention(plain, part, bars[FULL])
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
        "gap_closed": evaluation.gap_closed(readings),
    }


def _table(title: str, readings: dict[str, Reading], caption: str) -> Table:
    """Nats per token, mean and by quarter; lower is better."""
    columns = ["", "mean", "1st", "2nd", "3rd", "4th", "gap\nclosed", "tokens\n/s", "state\nMB"]
    shown = table(title, columns, caption)
    closed = evaluation.gap_closed(readings)
    gaps = {FULL: "100%", SINKS: "0%", TTT: "no gap" if closed is None else f"{closed:.0%}"}
    for name, reading in readings.items():
        losses = [f"{loss:.3f}" for loss in (reading.mean, *reading.by_quarter)]
        last = [gaps.get(name, ""), f"{reading.tokens_per_second:.0f}", f"{reading.state_bytes / 1e6:.0f}"]
        shown.add_row(name, *losses, *last, style="bold" if name == TTT else None)
    return shown
