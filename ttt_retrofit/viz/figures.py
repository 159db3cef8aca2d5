"""Data in, a matplotlib figure out. Nothing is shown, nothing written, no global state of matplotlib is touched.

Colours stay apart for colour-blind readers and in grey (Okabe and Ito; cividis, viridis).
T tokens, S sites, N chunks, Q questions, L layers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from ..errors import MissingExtraError
from ..evaluation import FULL, SINKS, TTT
from .data import CONDITIONS, MemoryEffect, TextRead, running_mean

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ModuleNotFoundError as error:
    raise MissingExtraError("Drawing", "matplotlib", "viz") from error

STYLES: dict[str, dict[str, Any]] = {
    FULL: {"color": "#222222", "linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 3},
    SINKS: {"color": "#0072B2", "linewidth": 1.6},
    TTT: {"color": "#D55E00", "linewidth": 1.9},
}
OF_CONDITION = ("#222222", "#0072B2", "#D55E00")
MARKERS = ("o", "s", "^")
LOOK: dict[Any, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.h_pad": 0.1,  # inches; labels and titles of neighbours else touch
    "figure.constrained_layout.w_pad": 0.1,
}
SURPRISED = 8.0  # nats at which a token is darkest
SHADES = matplotlib.colormaps["cividis_r"]
WHITE_FROM = 0.53  # of the scale: from here on white is read better on its shade than black (WCAG contrast)


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Figure:
        with matplotlib.rc_context(LOOK):
            return draw(*args, **kwargs)

    return styled


@_styled
def loss_by_position(read: TextRead, average: int = 256) -> Figure:
    """Loss over position, and how much lower it is with updates.

    Parameters
    ----------
    average : tokens over which losses are averaged; at most a quarter of the text.
    """
    average = max(1, min(average, len(read.without) // 4))
    figure = Figure(figsize=(8.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.5, 1))
    curves = {SINKS: read.without, TTT: read.updated} | ({} if read.full is None else {FULL: read.full})
    for name, losses in curves.items():
        above.plot(*running_mean(losses, average), label=name, **STYLES[name])
    above.set(ylabel="loss, nats/token", title=f"Loss, running mean over {average} tokens")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1.08), ncols=3, borderaxespad=0)
    positions, gain = running_mean(read.without - read.updated, average)
    below.axhline(0, color="#888888", linewidth=0.8)
    below.plot(positions, gain, color=STYLES[TTT]["color"])
    below.set(ylabel="nats/token", title="What updates are worth: without minus with", xlabel="position, tokens")
    below.set_xlim(0, len(read.without) + 1)
    _thousands(below)
    if read.window is not None and read.window < len(read.without):
        for axes in (above, below):
            axes.axvline(read.window, color="#888888", linewidth=0.9, linestyle=":")
        above.annotate(
            f"window ({read.window})", (read.window, 0.98), (4, 0), ("data", "axes fraction"), "offset points",
            va="top", color="#555555", bbox={"facecolor": "white", "linewidth": 0, "pad": 1},
        )  # fmt: skip
    return figure


@_styled
def weight_changes(read: TextRead) -> Figure:
    """‖ΔW‖ / ‖W‖ of every site after every chunk."""
    sites, chunks = read.moved.shape
    figure = Figure(figsize=(8.4, 1.6 + 0.24 * max(sites, 6)), layout="constrained")
    axes = figure.subplots()
    end = chunks * read.chunk
    image = axes.imshow(
        read.moved.numpy(), aspect="auto", origin="lower", cmap="viridis", vmin=0,
        extent=(0, end, -0.5, sites - 0.5), interpolation="nearest",
    )  # fmt: skip
    every = max(1, sites // 24)
    axes.set_yticks(range(0, sites, every), read.sites[::every])
    axes.set(xlabel=f"position, tokens (chunks of {read.chunk})", ylabel="layer and projection")
    axes.set_title("How far fast weights have moved")
    axes.grid(False)
    _thousands(axes)
    figure.colorbar(image, ax=axes, label="‖ΔW‖ / ‖W‖")
    return figure


@_styled
def surprise(read: TextRead, first: int, count: int = 180) -> Figure:
    """Tokens `first` to `first + count`, coloured by their loss without updates (above) and with (below)."""
    figure = Figure(figsize=(10, 7.2), layout="constrained")
    panels = figure.subplots(2, 1)
    end = min(first + count, len(read.tokens))
    tokens = [word.replace("\n", "↵").replace("$", r"\$") for word in read.tokens[first:end]]
    for axes, losses, title in zip(panels, (read.without, read.updated), ("without updates", "with updates")):
        shown = losses[first - 1 : end - 1] if first else losses[: end - 1]
        _lay_out(axes, tokens if first else tokens[1:], shown)
        axes.set_title(f"{title}: {shown.mean():.2f} nats/token in these {len(shown)} tokens")
    scale = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, SURPRISED), SHADES)
    figure.colorbar(scale, ax=panels, label="loss, nats", extend="max", shrink=0.6, pad=0.01)
    return figure


def _lay_out(axes: Axes, tokens: list[str], losses: Tensor, width: int = 96) -> None:
    """Words in lines of `width` characters of a fixed-width font, each on its colour."""
    column = row = 0
    for token, loss in zip(tokens, losses.tolist()):
        size = max(len(token), 1)
        if column + size > width:
            column, row = 0, row + 1
        level = min(loss / SURPRISED, 1.0)
        axes.add_patch(matplotlib.patches.Rectangle((column, row), size, 0.9, color=SHADES(level), linewidth=0))
        axes.text(column, row + 0.48, token, family="DejaVu Sans Mono", fontsize=10, va="center",
                  color="white" if level > WHITE_FROM else "black")  # fmt: skip
        column += size
    axes.set(xlim=(0, width), ylim=(max(row + 1, 6), 0))
    axes.axis("off")


@_styled
def state_bytes(read: TextRead) -> Figure:
    """What is carried from call to call, against the tokens read."""
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, points in read.state.items():
        tokens, sizes = zip((0, 0), *points)  # a text read in one call is a line, too
        axes.plot(tokens, [size / 1e6 for size in sizes], label=name, **STYLES[name])
    axes.set(xlabel="tokens read", ylabel="state of a row, MB", title="What must be kept to go on reading")
    axes.set_xlim(0, max(tokens for points in read.state.values() for tokens, _ in points))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=3, borderaxespad=0)
    _thousands(axes)
    return figure


@_styled
def memory_effect(effect: MemoryEffect) -> Figure:
    """Closeness to the state with the context, the states in a plane, and the answer read off every layer."""
    figure = Figure(figsize=(10, 8.4), layout="constrained")
    close, lens, plane = figure.subplot_mosaic([["close", "lens"], ["plane", "plane"]]).values()
    layers = range(effect.states.shape[2])
    for index, by_question in enumerate(effect.closeness, start=1):
        _band(close, layers, by_question, index)
    close.set(
        xlabel="after layer",
        ylabel="cosine (thin lines: each question)",
        title="Closeness to the state with the context",
    )
    half = len(layers) // 2  # below, the head cannot read the states yet
    for index, by_question in enumerate(effect.lens):
        _band(lens, layers[half:], by_question[:, half:], index)
    lens.set(
        xlabel="after layer", ylabel="log-probability, nats", title="The answer's first token, read off each layer"
    )
    points = effect.plane(len(layers) - 1)
    for index, name in enumerate(CONDITIONS):
        across, up = points[index].T
        plane.scatter(across, up, color=OF_CONDITION[index], marker=MARKERS[index], label=name, s=44, zorder=3)
    for start, target in ((1, 0), (2, 0)):
        for a, b in zip(points[start].tolist(), points[target].tolist()):
            plane.plot(*zip(a, b), color=OF_CONDITION[start], linewidth=0.7, alpha=0.6)
    plane.set(xlabel="1st principal component", ylabel="2nd principal component")
    asked = "1 question" if len(effect.questions) == 1 else f"{len(effect.questions)} questions"
    plane.set_title(f"States after the last layer, {asked}; lines lead to the same question with the context")
    figure.legend(*plane.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _band(axes: Axes, layers: range, by_question: Tensor, condition: int) -> None:
    """The mean over questions, and every question as a thin line. by_question: (Q, L + 1)."""
    color = OF_CONDITION[condition]
    for values in by_question:
        axes.plot(layers, values, color=color, linewidth=0.7, alpha=0.45)
    axes.plot(layers, by_question.mean(0), color=color, linewidth=2, marker=MARKERS[condition], markersize=4)


def _thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")
