"""What do models cost that were made to have a bounded state? At the width and depth of SmolLM2-135M, weights random.

Seconds to read, time per token and bytes of state; no quality, of which random weights have none. Every row is measured
in a process of its own; one that cannot run says why. A row that was measured with the same settings on this machine is
kept, except those that failed. Titans needs `pip install titans-pytorch`.

    python -m benchmarks.recurrent            # 2,048 tokens; of twice as many, Titans' updates take more than 20 GiB
    python -m benchmarks.recurrent --quick    # 512
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttt_retrofit import TTTConfig

from .harness.costs import limit_memory, of_reading
from .harness.options import command_line, stored_as
from .harness.processes import ask
from .harness.store import Store
from .harness.tables import markdown_table
from .plots import cost_against_state
from .recurrent_models import DEPTH, VOCABULARY, WIDTH, Step, state_bytes, systems

NAME = "recurrent"
READS = 3  # of which the fastest counts
WARM_UP = 64  # tokens


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    torch.manual_seed(0)
    system = systems(options.window)[name]
    model = system.build().eval().to(device)
    ids = torch.randint(VOCABULARY, (1, options.tokens), device=device)
    with torch.no_grad():
        system.step(model, ids[:, :WARM_UP], None, 0)
        found = of_reading(
            device,
            lambda: system.step(model, ids, None, 0),
            lambda after: decode(model, system.step, *after, options),
            lambda after: state_bytes(after[1], {parameter.data_ptr() for parameter in model.parameters()}),
            READS,
        )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    token, state = found.pop("decoding") / options.decoded, found.pop("held")
    return found | {"parameters": parameters, "token": token, "state": state}


def decode(model: Any, step: Step, logits: Tensor, state: Any, options: argparse.Namespace) -> None:
    """Greedy tokens after a read."""
    for count in range(options.decoded):
        logits, state = step(model, logits[:, -1:].argmax(-1), state, options.tokens + count)


def page(report: dict[str, Any]) -> list[str]:
    settings, notes = report["settings"], notes_of(report["settings"]["window"])
    rows = {name: report["rows"][name] for name in notes if name in report["rows"]}
    tokens = f"{settings['tokens']:,}"
    header = ["system", "parameters, M", f"seconds to read {tokens}", "ms per token", "state, MiB", "peak, MiB", "what"]
    table = []
    for name, row in rows.items():
        if "failed" in row:
            table.append([name, *["-"] * 5, f"{notes[name]}; cannot run: {row['failed']}".replace("|", "\\|")])
            continue
        peak = "-" if row["peak"] is None else f"{row['peak'] / 2**20:.0f}"
        table.append(
            [name, f"{row['parameters'] / 1e6:.1f}", f"{row['read']:.2f}", f"{1000 * row['token']:.1f}",
             f"{row['state'] / 2**20:.2f}", peak, notes[name]]
        )  # fmt: skip
    return [
        f"Width {WIDTH}, depth {DEPTH}, {VOCABULARY:,} words, random weights, batch 1, on {settings['device']}; "
        f"{settings['decoded']} tokens decoded, an update after every {TTTConfig().chunk_size} where there is "
        f"learning. Seconds to read: the fastest of {READS}. Peak: while reading, above the model.",
        "",
        *markdown_table(header, table),
        "",
    ]


def notes_of(window: int) -> dict[str, str]:
    """What each system is, in the order of the table."""
    return {name: system.note for name, system in systems(window).items()}


def plot(stored: dict[str, Any], path: Path) -> None:
    tokens = stored["settings"]["tokens"]
    points = {n: (row["state"] / 2**20, row["read"]) for n, row in stored["rows"].items() if "failed" not in row}
    title = f"State and time of {len(points)} systems at width {WIDTH} and depth {DEPTH}, random weights"
    cost_against_state(points, path, title, (f"state after {tokens:,} tokens, MiB", "seconds to read them"))


def main() -> None:
    parser = command_line(__doc__, device=True, quick="512 tokens")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--decoded", type=int, default=256, help="tokens; as many as a chunk has include one update")
    parser.add_argument("--window", type=int, default=512, help="of the systems that have one")
    parser.add_argument("--one", metavar="SYSTEM", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        if options.device == "cpu":
            limit_memory()
        print(json.dumps(measure(options.one, options)))
        return
    if options.quick:
        options.tokens, options.decoded = 512, 16

    settings = {name: getattr(options, name) for name in ("tokens", "decoded", "window", "device")}
    given = [f"--{option}={value}" for option, value in settings.items()]
    store = Store.of_machine(stored_as(NAME, quick=options.quick), settings, page)
    directory = store.fill(
        {name: partial(ask, f"benchmarks.{NAME}", [f"--one={name}", *given]) for name in notes_of(options.window)}
    )
    plot(store.report, directory / f"{store.name}.png")
    store.show()


if __name__ == "__main__":
    main()
