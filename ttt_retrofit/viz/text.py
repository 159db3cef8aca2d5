"""The same pictures for a terminal: sparklines, shades and tables, as rich renderables.

T tokens, S sites, N chunks, Q questions, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ..evaluation import FULL, SINKS, TTT
from .data import CONDITIONS, MemoryEffect, TextRead, moved_by, shortened

BARS = "▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
WIDTH = 40  # columns of a picture
# Backgrounds from pale to dark, readable on either kind of terminal: each with its own ink.
HEAT = ("black on grey93", "black on grey78", "black on grey62", "white on grey42", "white on grey23")
STEP = 2.0  # nats from one background to the next


def sparkline(values: Sequence[float], lowest: float, highest: float, marks: str = BARS) -> str:
    """One character for each value, between the bounds given."""
    span = (highest - lowest) or 1.0
    levels = (min(max((value - lowest) / span, 0.0), 1.0) for value in values)
    return "".join(marks[round(level * (len(marks) - 1))] for level in levels)


def binned(values: Sequence[float], width: int = WIDTH) -> list[float]:
    """Means over at most `width` stretches of equal length."""
    width = min(width, len(values))
    if not width:
        return []
    edges = [len(values) * index // width for index in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def loss_by_position(read: TextRead) -> Group:
    curves = {SINKS: read.without, TTT: read.updated} | ({} if read.full is None else {FULL: read.full})
    means = {name: binned(losses.tolist()) for name, losses in curves.items()}
    lowest, highest = min(map(min, means.values())), max(map(max, means.values()))
    title, shown = (
        f"Loss over position, from {lowest:.2f} ({BARS[0]}) to {highest:.2f} ({BARS[-1]}) nats/token",
        _grid(),
    )
    for name, values in means.items():
        shown.add_row(name, sparkline(values, lowest, highest), f"mean {curves[name].mean():.3f}")
    return Group(title, shown)


def weight_changes(read: TextRead) -> Group:
    """The sites that moved least, most, and in between: most move alike."""
    highest = float(read.moved.max()) if read.moved.numel() else 0.0
    title = f"‖ΔW‖ / ‖W‖ of {len(read.sites)} sites over the text, up to {highest:.4f} ({SHADES[-1]}){moved_by(read)}"
    shown = _grid()
    if highest:
        order = read.moved[:, -1].argsort().tolist()
        named = {order[0]: "least", order[len(order) // 2]: "median"} | {order[-1]: "most"}
        for index, which in reversed(named.items()):
            values = read.moved[index].tolist()
            shown.add_row(
                f"{read.sites[index]} ({which})", sparkline(binned(values), 0.0, highest, SHADES), f"{values[-1]:.4f}"
            )
    return Group(title, shown)


def surprise(read: TextRead, first: int, count: int = 180) -> Group:
    title, shown = "Loss of each token, darker is more surprising; without updates, then with", _grid()
    end = min(first + count, len(read.tokens))
    for losses in (read.without, read.updated):
        text = Text()
        for token, loss in zip(read.tokens[max(first, 1) : end], losses[max(first - 1, 0) : end - 1].tolist()):
            text.append(token.replace("\n", "↵"), HEAT[min(int(loss / STEP), len(HEAT) - 1)])
        shown.add_row("with" if losses is read.updated else "without", text)
    return Group(title, shown)


def state_bytes(read: TextRead) -> Group:
    highest = max(size for points in read.state.values() for _, size in points)
    title, shown = f"State of a row over the text, up to {highest / 1e6:,.1f} MB ({BARS[-1]})", _grid()
    for name, points in read.state.items():
        sizes = [float(size) for _, size in points]
        shown.add_row(name, sparkline(binned(sizes), 0.0, highest), f"{sizes[-1] / 1e6:,.1f} MB")
    return Group(title, shown)


def memory_effect(effect: MemoryEffect) -> Group:
    title = f"Probability of the answer's first token, {effect.asked}: {effect.in_words}"
    likely = Table(box=None, padding=(0, 2, 0, 0))
    likely.add_column("question")
    for name in CONDITIONS:
        likely.add_column(name, justify="right", no_wrap=True)
    for question, values in zip(effect.questions, effect.likely.T.tolist()):
        likely.add_row(shortened(question), *(f"{value:.2f}" for value in values))
    shown = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("after layer", *CONDITIONS):
        shown.add_column(column, justify="right", no_wrap=True)
    scores = effect.lens.mean(1)
    count = scores.shape[1]
    every = max(1, count // 12)
    for layer in [*range(0, count - 1, every), count - 1]:
        shown.add_row(str(layer), *(f"{value:.2f}" for value in scores[:, layer].tolist()))
    return Group(title, likely, "\nIts log-probability by layer, means over questions", shown)


def _grid() -> Table:
    made = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    return made
