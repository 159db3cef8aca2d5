"""Draws every picture of `results/` anew from the JSON that is stored there; nothing is measured.

python -m benchmarks.pictures                # all
python -m benchmarks.pictures overview       # those that are named so
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import ablations, memory_over_turns, needle_report, perplexity_report, recurrent, speed_and_memory
from .harness.store import DIRECTORY, stored_report
from .measure import FULL, SINKS, TTT
from .plots import overview

Plot = Callable[[dict[str, Any], Path], None]
PLOTS: dict[str, Plot] = {  # by how the names of results begin
    "ablations": ablations.plot,
    "memory_over_turns": memory_over_turns.plot,
    "needle": needle_report.plot,
    "perplexity_by_position": perplexity_report.plot,
    "recurrent": recurrent.plot,
    "speed_and_memory": speed_and_memory.plot,
}
OVERVIEW = "overview"
DEFAULT = f"{TTT} (default)"


def draw_overview(path: Path) -> None:
    """Loss and state against tokens, on the mean of all texts: the picture of the README."""
    read, costs = stored_report("perplexity_by_position"), stored_report("speed_and_memory")
    of_text = perplexity_report.stored(read)
    shown = {FULL: FULL, SINKS: SINKS, TTT: DEFAULT}
    losses = {name: torch.stack([part[system] for part in of_text.values()]).mean(0) for name, system in shown.items()}
    end = read["settings"]["tokens"]
    by_length = speed_and_memory.by_batch(costs["rows"])[1]
    state = {
        name: {n: row["retained"] / 2**20 for n, row in by_length[system].items() if n <= end}
        for name, system in shown.items()
    }
    before = slice(0, read["trained"] // perplexity_report.BLOCK)
    closed = perplexity_report.closed(perplexity_report.differences(of_text, DEFAULT, before), texts_too=True)
    title = (
        f"Updates close {closed.split()[0]} of the gap to full attention at {read['trained']:,} tokens, "
        f"with a state of constant size\n({read['settings']['model']}, mean of {len(of_text)} texts, default preset)"
    )
    overview(losses, state, perplexity_report.BLOCK, path, title, read["trained"])


def draw(name: str) -> None:
    """All pictures of a stored result."""
    for prefix, plot in PLOTS.items():
        if name == prefix or name.startswith(prefix + "_"):
            plot(stored_report(name), DIRECTORY / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of results, without an ending; all when none is given")
    names = parser.parse_args().names or [OVERVIEW, *(path.stem for path in sorted(DIRECTORY.glob("*.json")))]
    for name in names:
        draw_overview(DIRECTORY / f"{OVERVIEW}.png") if name == OVERVIEW else draw(name)


if __name__ == "__main__":
    main()
