"""Does learning while reading make up for the window? Loss by position on texts that chose nothing, of four kinds.

One pass of the longest length gives every shorter one too, for all systems are causal. At the first length the question
is how much of the gap between window + sinks and full attention is closed; at the longest, beyond the length the model
was trained for, whether the converted model is the better one.

    python -m benchmarks.perplexity_by_position            # 8,192 and 16,384 tokens of each test text
    python -m benchmarks.perplexity_by_position --quick    # 2,048 tokens, to see that it runs
    python -m benchmarks.perplexity_by_position --only "full attention" "window + sinks" --texts emma
    python -m benchmarks.meta_learning --systems exact --seeds 1 --checkpoint tuned && \
        python -m benchmarks.perplexity_by_position --checkpoint tuned

What was measured with the same settings is kept in `results/`, so a run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ttt_retrofit
from ttt_retrofit import TTTConfig
from ttt_retrofit.config import PRESETS as NAMED

from .harness.loading import base_model, tokenizer_of
from .harness.options import command_line, stored_as
from .harness.store import Store
from .measure import FULL, SINKS, TTT, Reading, converted, full_attention, progress_bars, streaming
from .perplexity_report import BLOCK, KINDS, META, lines, plot
from .texts import beginnings, text

NAME = "perplexity_by_position"
LENGTHS, QUICK = (8192, 16384), 2048
PRESETS = {name: NAMED[name] for name in ("default", "fast", "small")}
WITH_UPDATES = {f"{TTT} ({preset})": preset for preset in PRESETS}
SYSTEMS = (FULL, SINKS, *WITH_UPDATES, META)


def read(base: Any, tuned: Any, ids: torch.Tensor, system: str, window: int, sinks: int, title: str) -> Reading:
    """One system over one text."""
    with progress_bars([system], ids.numel(), title) as bars:
        if system == FULL:
            return full_attention(base, ids, bars[system])
        if system == META:
            return streaming(tuned, ids, bars[system])
        config = TTTConfig.preset(WITH_UPDATES.get(system, "default"), sliding_window=window, sink_tokens=sinks)
        if system == SINKS:
            config = replace(config, learn_from="none")
        with converted(base, config) as model:
            return streaming(model, ids, bars[system])


def loaded(options: argparse.Namespace) -> Any:
    """The meta-learned checkpoint, if it reads under the window and the sinks of the others."""
    tuned = ttt_retrofit.AutoModelForCausalLM.from_pretrained(options.checkpoint, dtype=torch.float32).eval()
    found = tuned.ttt.sliding_window, tuned.ttt.sink_tokens
    if found != (options.window, options.sinks):
        raise SystemExit(
            f"{options.checkpoint} reads under a window of {found[0]} with {found[1]} sinks, the others under "
            f"{options.window} with {options.sinks}. Give --window and --sinks as it has them."
        )
    return tuned


def row(reading: Reading, digest: str) -> dict[str, Any]:
    """What is stored of a reading: the mean loss of every `BLOCK` tokens, the last ones fewer by one."""
    blocks = [round(part.mean().item(), 5) for part in reading.losses.split(BLOCK)]
    return {
        "losses": blocks, "tokens": len(reading.losses) + 1, "seconds": reading.seconds,
        "state_bytes": reading.state_bytes, "text": digest,
    }  # fmt: skip


def missing(rows: dict[str, Any], texts: dict[str, str], systems: list[str]) -> Iterator[tuple[str, str]]:
    """The texts and systems that are not stored; those of another edition of a text are read again."""
    for name, digest in texts.items():
        for system in systems:
            if rows.get(f"{name}: {system}", {}).get("text") != digest:
                yield name, system


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, model="smollm2-135m", quick=f"{QUICK:,} tokens of each text", full=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--sinks", type=int, default=4)
    parser.add_argument("--texts", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, help="systems")
    parser.add_argument("--checkpoint", type=Path, help="a converted model that was meta-learned, of the same base")
    options = parser.parse_args(arguments)
    only = options.only or [system for system in SYSTEMS if system != META or options.checkpoint]
    if META in only and not options.checkpoint:
        raise SystemExit(f"{META!r} needs --checkpoint: a directory that `ttt-retrofit train` or meta_learning wrote.")
    lengths = [QUICK] if options.quick else sorted(options.lengths)
    settings: dict[str, Any] = {key: getattr(options, key) for key in ("model", "window", "sinks")}
    settings |= {"tokens": lengths[-1], "block": BLOCK, "presets": PRESETS}
    store = Store.of_all(stored_as(NAME, quick=options.quick), settings, lines)
    report = store.report
    report["lengths"] = sorted({*report.get("lengths", []), *lengths})

    base, tokenizer = base_model(options.model), tokenizer_of(options.model)
    tuned = loaded(options) if META in only else None
    report["trained"] = base.config.max_position_embeddings
    digests = {title: hashlib.sha256(text(title).encode()).hexdigest()[:12] for title in options.texts}
    pending = [*missing(report["rows"], digests, only)]
    ids = beginnings(dict.fromkeys(title for title, _ in pending), tokenizer, lengths[-1])
    for title, system in pending:
        reading = read(base, tuned, ids[title], system, options.window, options.sinks, title)
        store.add({f"{title}: {system}": row(reading, digests[title])})
    plot(report, store.save() / f"{store.name}.png")
    store.show()


if __name__ == "__main__":
    main()
