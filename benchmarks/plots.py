"""Pictures of measurements, as PNG files. No window is ever opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from torch import Tensor

from ttt_retrofit.viz import figures
from ttt_retrofit.viz.data import running_mean

from .harness.tables import Share
from .measure import FULL, SINKS, TTT, WINDOW, Reading

STYLES: dict[str, dict[str, Any]] = {**figures.STYLES, WINDOW: {"color": "#999999", "linewidth": 1.3}}


def loss_by_position(
    readings: dict[str, Reading], path: Path, title: str, *, average: int = 256, window: int | None = None
) -> None:
    """Loss over position: as it is, and against full attention, where the text's own ups and downs cancel out.

    Parameters
    ----------
    readings : one for each system, all of the same text; full attention among them.
    average : tokens over which losses are averaged.
    window : marked in the picture where given: before it, a window hides nothing.
    """
    losses = {name: reading.losses for name, reading in readings.items()}
    with plt.rc_context(figures.LOOK):
        figure, (above, below) = plt.subplots(2, 1, figsize=(8.4, 6.6), sharex=True, height_ratios=(1, 1.15))
        for name, values in losses.items():
            _draw(above, values, average, name)
            if name != WINDOW:  # ten times the others' distance would flatten them
                _draw(below, values - losses[FULL], average, name)
        above.set_ylabel("loss, nats/token")
        above.set_title("Loss", color="#444444")
        below.set_ylabel("difference, nats/token")
        below.set_title("Loss minus that of full attention (window alone is off this scale)", color="#444444")
        below.set_xlabel(f"position, tokens (running mean over {average})")
        below.set_xlim(0, len(losses[FULL]))
        below.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")
        if window is not None:
            for axes in (above, below):
                axes.axvline(window, color="#888888", linewidth=0.8, linestyle=":")
            below.annotate(
                f" window ({window})", (window, 0.99), xycoords=("data", "axes fraction"), va="top", color="#666666"
            )
        _head(figure, title, above)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _head(figure: Figure, title: str, axes: Axes) -> None:
    """The title, and beneath it the names of all curves, in as many rows as they need."""
    width, height = figure.get_size_inches()
    handles, names = axes.get_legend_handles_labels()
    columns = max(1, min(len(names), int(width / (0.6 + 0.082 * max(map(len, names))))))
    title_height = 0.1 + 0.22 * (title.count("\n") + 1)
    legend_height = 0.26 * -(-len(names) // columns)
    top = 1 - (title_height + legend_height + 0.08) / height
    figure.tight_layout(rect=(0, 0, 1, top))  # before there is a title, for which it would leave room again
    figure.suptitle(title, x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontsize=12, fontweight="bold")
    figure.legend(handles, names, loc="upper left", ncols=columns, bbox_to_anchor=(0.0, 1 - title_height / height))


def _draw(axes: Axes, values: Tensor, average: int, name: str) -> None:
    """values: (T - 1,)."""
    axes.plot(*running_mean(values, average), label=name, **STYLES.get(name, {}))


def _thousands(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")


def overview(
    losses: dict[str, Tensor], state: dict[str, dict[int, float]], block: int, path: Path, title: str, trained: int
) -> None:
    """Loss, (blocks,) of `block` tokens each, and MiB of state by tokens: the picture of the README."""
    average = 16  # blocks
    with plt.rc_context(figures.LOOK):
        figure, (loss, size) = plt.subplots(1, 2, figsize=(9.6, 3.9))
        for name, values in losses.items():
            places, smooth = running_mean(values, average)
            loss.plot([(place + 1) * block for place in places], smooth, label=name, **STYLES[name])
            size.plot([*state[name]], [*state[name].values()], marker="o", markersize=3.5, **STYLES[name])
        lowest = min(min(running_mean(values, average)[1]) for values in losses.values())
        highest = max(max(running_mean(values[: trained // block], average)[1]) for values in losses.values())
        loss.set_ylim(lowest - 0.08, highest + 0.1)  # beyond the trained length full attention leaves it
        loss.axvline(trained, color="#888888", linewidth=0.8, linestyle="--")
        loss.annotate(
            "trained\nlength",
            (trained, 0.98),
            (4, 0),
            ("data", "axes fraction"),
            "offset points",
            va="top",
            color="#666666",
        )
        loss.set_title("loss, nats/token", color="#444444")
        loss.set_xlabel(f"position, tokens (running mean over {average * block:,})")
        size.set_title("state of a sequence, MiB", color="#444444")
        size.set_xlabel("tokens read")
        size.set_ylim(bottom=0)
        for panel in (loss, size):
            panel.xaxis.set_major_locator(plt.MaxNLocator(5))
            _thousands(panel)
        _head(figure, title, loss)
        _save(figure, path)


def differences_by_position(
    panels: dict[str, dict[str, Tensor]], block: int, path: Path, title: str, *, window: int, trained: int
) -> None:
    """A panel for each kind of text: differences in loss, (blocks,) of `block` tokens each, over position.

    Beyond the length that a model was trained for, full attention breaks down, and the differences leave the picture.
    """
    colours = (STYLES[SINKS]["color"], STYLES[TTT]["color"], "#009E73", "#CC79A7")
    average = 16  # blocks
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.8), sharex=True, sharey=True, squeeze=False)
        for panel, (kind, curves) in zip(axes.flat, panels.items()):
            for (system, values), colour in zip(curves.items(), colours):
                places, smooth = running_mean(values, average)
                panel.plot([(place + 1) * block for place in places], smooth, label=system, color=colour, linewidth=1.5)
            panel.axhline(0, color=STYLES[FULL]["color"], linewidth=0.9, linestyle=STYLES[FULL]["linestyle"])
            panel.axvline(window, color="#888888", linewidth=0.8, linestyle=":")
            panel.axvline(trained, color="#888888", linewidth=0.8, linestyle="--")
            panel.set_title(kind, color="#444444")
            panel.set_ylim(-0.2, 0.35)
            panel.set_xlim(0, 1.4 * trained)
            panel.xaxis.set_major_locator(plt.MaxNLocator(5))
            _thousands(panel)
        above = axes[0][0]
        for place, said in ((window, "window"), (trained, "trained length:\nfull attention\nbreaks down")):
            above.annotate(
                said, (place, 0.97), (4, 0), ("data", "axes fraction"), "offset points", va="top", color="#666666"
            )
        for panel in axes[-1]:
            panel.set_xlabel(f"position, tokens (running mean over {average * block:,})")
        for panel in axes[:, 0]:
            panel.set_ylabel("nats/token above full attention")
        _head(figure, title, above)
        _save(figure, path)


FEW = 10  # questions, below which a share is a hint: its bar is hollow


def recall_bars(bars: dict[str, tuple[Share | None, ...]], path: Path, title: str, labels: tuple[str, ...]) -> None:
    """Horizontal bars with 95% intervals, a group for each system in the order given; None was not asked.

    Each bar says how many were right of how many: nothing found, few questions and no question look alike otherwise.
    """
    names = list(bars)
    height = 0.8 / len(labels)
    colours = ("#0072B2", "#E69F00")
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(figsize=(8.4, 1.1 + 0.4 * len(names)))
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
        for number, (label, colour) in enumerate(zip(labels, colours, strict=True)):
            axes.barh([0], [0], color=colour, label=label)  # for the legend
            for index, name in enumerate(names):
                share, place = bars[name][number], index + (number - (len(labels) - 1) / 2) * height
                said, end = "not asked", 0.0
                if share is not None:
                    few = share.asked < FEW
                    value, (low, high) = share.right / share.asked, share.interval
                    axes.barh(place, value, height * 0.9, color="none" if few else colour, edgecolor=colour)
                    axes.plot((low, high), (place, place), color="#444444", linewidth=0.9)
                    said, end = f"{share.right} of {share.asked}", high
                axes.annotate(
                    said, (end, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5, color="#444444"
                )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.14)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.set_xlabel(f"share, with its 95% interval (hollow: fewer than {FEW} questions)")
        _head(figure, title, axes)
        _save(figure, path)


def settings_by_gap(points: dict[str, tuple[float, float]], marked: tuple[str, ...], path: Path, title: str) -> None:
    """A row for each setting, best first: time, and the gap closed; what is far below stands at the edge."""
    floor = -0.1
    ordered = sorted(points.items(), key=lambda item: -item[1][1])
    with plt.rc_context(figures.LOOK):
        figure, (gaps, times) = plt.subplots(
            1, 2, figsize=(9.6, 1.4 + 0.23 * len(ordered)), sharey=True, width_ratios=(1.6, 1)
        )
        for row, (name, (seconds, closed)) in enumerate(ordered):
            colour, below = STYLES[TTT if name in marked else SINKS]["color"], closed < floor
            gaps.scatter(100 * max(closed, floor), row, s=34, color=colour, marker="<" if below else "o", zorder=3)
            if below:
                gaps.annotate(
                    f"{closed:.0%}", (100 * floor, row), (7, 0), textcoords="offset points", va="center", fontsize=8
                )
            times.scatter(seconds, row, s=34, color=colour, zorder=3)
        gaps.axvline(100, color=STYLES[FULL]["color"], linewidth=0.9, linestyle=STYLES[FULL]["linestyle"])
        gaps.set_yticks(range(len(ordered)), [name for name, _ in ordered])
        for label in gaps.get_yticklabels():
            label.set_color(STYLES[TTT]["color"] if label.get_text() in marked else "#222222")
        gaps.set_ylim(len(ordered) - 0.5, -0.5)
        gaps.set_xlabel("gap to full attention closed, % (dashed: all of it)")
        times.set_xlim(0.9, max(seconds for seconds, _ in points.values()) + 0.1)
        times.set_xlabel("time, reading without learning = 1")
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        figure.tight_layout()
        _save(figure, path)


Curve = tuple[dict[int, float], dict[int, float]]  # measured, and fitted, by length


def by_length(panels: dict[str, dict[str, Curve]], path: Path, title: str) -> None:
    """Two panels a row, both axes logarithmic: measured as points, fitted and extrapolated as dotted lines."""
    styles = [STYLES[FULL], STYLES[SINKS], STYLES[TTT], {"color": "#009E73", "linewidth": 1.9}]
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(-(-len(panels) // 2), 2, figsize=(9.6, 7.2), sharex=True, squeeze=False)
        for panel, (name, curves) in zip(axes.flat, panels.items()):
            for (system, (measured, line)), style in zip(curves.items(), styles, strict=True):
                color = style["color"]
                panel.plot([*line], [*line.values()], color=color, linestyle=":", linewidth=1.1)
                panel.plot([*measured], [*measured.values()], "o-", label=system, markersize=3.5, color=color)
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            panel.xaxis.set_major_formatter(lambda n, _: f"{n / 2**20:.0f}M" if n >= 2**20 else f"{n / 1024:.0f}K")
            panel.set_title(name, color="#444444")
        for panel in axes[-1]:
            panel.set_xlabel("tokens (dotted: fitted, extrapolated beyond the points)")
        _head(figure, title, axes[0][0])
        _save(figure, path)


def cost_against_state(points: dict[str, tuple[float, float]], path: Path, title: str, labels: tuple[str, str]) -> None:
    """One named point for each system: state to the right, cost upwards, both logarithmic."""
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(figsize=(8.4, 5.0))
        colour = {name: STYLES[TTT if TTT in name else SINKS]["color"] for name in points}
        for name, point in points.items():
            axes.scatter(*point, s=26, color=colour[name])
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.margins(x=0.25, y=0.12)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
        figure.tight_layout()
        places = axes.transData.transform([*points.values()])
        taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        for name, point in points.items():
            taken.append(_named(axes, name, point, colour[name], taken))
        _save(figure, path)


def _named(axes: Axes, name: str, point: tuple[float, float], colour: str, taken: list[Bbox]) -> Bbox:
    """Write a name beside its point, at the first place that no other name covers; at the last one if there is none."""
    beside = ((6, 4, "left"), (-6, 4, "right"), (6, -11, "left"), (-6, -11, "right"))
    further = ((0, 8, "center"), (0, -15, "center"), (-6, -3, "right"), (6, -3, "left"))
    for number, (across, up, side) in enumerate((*beside, *further), start=1):
        text = axes.annotate(
            name, point, xytext=(across, up), textcoords="offset points", ha=side, fontsize=8, color=colour
        )
        box = text.get_window_extent()
        free = axes.bbox.containsx(box.x1) and not any(box.overlaps(other) for other in taken)
        if free or number == len(beside + further):
            break
        text.remove()
    return box
