"""What does reading cost? Time and bytes as the context grows, and from where on full attention costs more.

First what learning costs while reading, as ratios of runs that took turns. Then, every row in a process of its own, the
time to read, the time per token and the bytes by length of the context, batch 1 and 8; lengths beyond those that were
read are extrapolated from what is fitted to the rows, and marked. What was measured with the same settings on this
machine is kept, so a run that was cut off goes on where it stopped.

    python -m benchmarks.speed_and_memory            # up to 32,768 tokens; eight rows up to 8,192
    python -m benchmarks.speed_and_memory --quick    # up to 4,096; eight rows up to 2,048
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ttt_retrofit import TTTConfig

from . import by_length_report, cost_ratios
from .by_length import BATCHES, LENGTHS, SYSTEMS, key
from .cost_ratios import PARTS
from .harness.options import command_line, stored_as
from .harness.processes import ask, here
from .harness.store import Store
from .measure import PRESETS
from .models import SOURCES, model_directory
from .timed_models import TIMED, in_words

NAME, MODEL = "speed_and_memory", "smollm2-135m"


def by_batch(rows: dict[str, Any]) -> dict[int, by_length_report.Rows]:
    """What was measured by length of the context."""
    found = {
        batch: [n for n in LENGTHS if all(key(system, batch, n) in rows for system in SYSTEMS)] for batch in BATCHES
    }
    return {
        batch: {system: {n: rows[key(system, batch, n)] for n in lengths} for system in SYSTEMS}
        for batch, lengths in found.items()
        if lengths
    }


def plot(stored: dict[str, Any], path: Path) -> None:
    """A picture for each batch size, beside `path`."""
    where = stored["machine"]["gpu"] or stored["machine"]["processor"]
    for batch, measured in by_batch(stored["rows"]).items():
        title = (
            "Costs by length of the context: a window's state stays, full attention's grows\n"
            f"({in_words(stored['settings']['model'])}, batch {batch}, {where})"
        )
        by_length_report.draw(measured, LENGTHS, path.with_stem(f"{path.stem}_batch_{batch}"), title)


def main(arguments: list[str] | None = None) -> None:
    parser = command_line(__doc__, device=True, quick="up to 4,096 tokens", full=True)
    parser.add_argument("--model", default=MODEL, choices=TIMED)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=4096, help="of the reads that take turns")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--longest", type=int, default=32768, help="tokens that are measured, batch 1")
    parser.add_argument("--longest-batched", type=int, default=8192, help="the same for each row of batch 8")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, choices=LENGTHS, metavar="TOKENS")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, choices=BATCHES)
    parser.add_argument("--decoded", type=int, default=256, help="tokens; as many as a chunk has include one update")
    parser.add_argument("--text", default="pride-and-prejudice")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(longest=4096, longest_batched=2048, decoded=32, tokens=1024, turns=2)
    if options.window + TTTConfig().chunk_size > LENGTHS[0]:
        raise SystemExit(
            f"--window {options.window}: at most {LENGTHS[0] - TTTConfig().chunk_size}, so that all are full."
        )

    names = ("model", "window", "decoded", "text", "device", "tokens", "turns")
    settings: dict[str, Any] = {name: getattr(options, name) for name in names} | {"presets": PRESETS}
    device = torch.device(options.device).type
    special = [] if (options.model, device) == (MODEL, "cpu") else [options.model, device]
    if options.model in SOURCES:
        model_directory(options.model)  # fetched once, before any row needs it
    asked = ask if device == "cpu" else here  # resident bytes of a CPU are those of a whole process
    given = [f"--{name}={getattr(options, name)}" for name in ("model", "window", "text", "device")]
    parts = {part: ("cost_ratios", [part, f"--tokens={options.tokens}", f"--turns={options.turns}"]) for part in PARTS}
    limits = zip(BATCHES, (options.longest, options.longest_batched))
    wanted = {b: [n for n in sorted(options.lengths) if n <= limit] for b, limit in limits if b in options.batches}
    costs = {
        key(system, batch, length): ("by_length", [system, str(batch), str(length), f"--decoded={options.decoded}"])
        for batch, lengths in wanted.items()
        for length, system in product(lengths, SYSTEMS)
    }
    measures = {
        row: partial(asked, f"benchmarks.{module}", [*what, *given]) for row, (module, what) in (parts | costs).items()
    }

    def page(report: dict[str, Any]) -> list[str]:
        rows = report["rows"]
        if measures.keys() - rows.keys():
            return ["Not finished."]
        ratios, report["ratios"] = cost_ratios.report({part: rows[part] for part in PARTS}, settings)
        lines, derived = by_length_report.report(by_batch(rows), LENGTHS, settings)
        report |= derived
        return [*ratios, *lines]

    store = Store.of_machine(stored_as(NAME, *special, quick=options.quick), settings, page)
    directory = store.fill(measures)
    plot(store.report, directory / f"{store.name}.png")
    store.show()


if __name__ == "__main__":
    main()
