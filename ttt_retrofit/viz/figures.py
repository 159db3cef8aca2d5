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
from .data import CONDITIONS, MemoryEffect, TextRead, moved_by, running_mean, shortened

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
    above.set(ylabel="loss, nats/token", title=f"Loss over {len(read.tokens):,} tokens, running mean over {average}")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1.08), ncols=3, borderaxespad=0)
    positions, gain = running_mean(read.without - read.updated, average)
    below.axhline(0, color="#888888", linewidth=0.8)
    below.plot(positions, gain, color=STYLES[TTT]["color"])
    worth = (read.without - read.updated).mean()
    below.set(ylabel="nats/token", xlabel="position, tokens")
    below.set_title(f"Loss without updates minus loss with updates: {worth:+.3f} on the mean")
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
    """‖ΔW‖ / ‖W‖ after every chunk: a line for each site, the lowest dark, the highest bright."""
    sites, chunks = read.moved.shape
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    positions = [read.chunk * number for number in range(chunks + 1)]
    shades = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, max(sites - 1, 1)), "viridis")
    for index, moved in enumerate(read.moved.tolist()):
        axes.plot(positions, [0.0, *moved], color=shades.cmap(index / max(sites - 1, 1)), linewidth=1.3)
    axes.set(xlabel=f"position, tokens (chunks of {read.chunk})", ylabel="‖ΔW‖ / ‖W‖")
    axes.set_title(f"Fast weights of {sites} sites after {chunks} chunks{moved_by(read)}")
    axes.set_ylim(bottom=0)
    _thousands(axes)
    bar = figure.colorbar(shades, ax=axes, label="site, lowest first")
    bar.set_ticks([0, max(sites - 1, 1)], labels=[read.sites[0], read.sites[-1]])
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
    axes.set(xlabel="tokens read", ylabel="state of a row, MB")
    axes.set_title(f"State of a row, kept to go on reading, over {len(read.tokens):,} tokens")
    axes.set_xlim(0, max(tokens for points in read.state.values() for tokens, _ in points))
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.1), ncols=3, borderaxespad=0)
    _thousands(axes)
    return figure


@_styled
def memory_effect(effect: MemoryEffect) -> Figure:
    """How likely the first token of each answer is in three conditions, and how that comes about layer by layer."""
    count = len(effect.questions)
    figure = Figure(figsize=(10, 4.2 + 0.3 * count), layout="constrained")
    answers, lens = figure.subplots(2, 1, height_ratios=(0.8 + 0.3 * count, 2.6))
    likely = effect.likely
    for index, name in enumerate(CONDITIONS):
        answers.scatter(
            likely[index], range(count), color=OF_CONDITION[index], marker=MARKERS[index], label=name, s=44, zorder=3
        )
    answers.set_yticks(range(count), [shortened(question) for question in effect.questions])
    answers.set(xlim=(-0.02, 1.02), ylim=(count - 0.5, -0.5), xlabel="probability of the answer's first token")
    title = f"How likely the answer to {effect.asked} begins: {effect.in_words}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    answers.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, borderaxespad=0)
    layers = range(effect.states.shape[2])
    half = len(layers) // 2  # below, the head cannot read the states yet
    for index, by_question in enumerate(effect.lens):
        _band(lens, layers[half:], by_question[:, half:], index)
    lens.set(xlabel="after layer", ylabel="log-probability, nats")
    lens.set_title("The same, read off each layer (thick: mean; thin: each question)")
    return figure


def _band(axes: Axes, layers: range, by_question: Tensor, condition: int) -> None:
    """The mean over questions, and every question as a thin line. by_question: (Q, L + 1)."""
    color = OF_CONDITION[condition]
    for values in by_question:
        axes.plot(layers, values, color=color, linewidth=0.7, alpha=0.45)
    axes.plot(layers, by_question.mean(0), color=color, linewidth=2, marker=MARKERS[condition], markersize=4)


def _thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")
