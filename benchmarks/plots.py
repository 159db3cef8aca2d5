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
from torch import Tensor

from ttt_retrofit.viz import figures
from ttt_retrofit.viz.data import running_mean

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
        _head(figure, title, above, top=0.955)
        _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _head(figure: Figure, title: str, axes: Axes, top: float) -> None:
    """The title, and beneath it the names of all curves in a row; the panels end at `top`, a share of the height."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(names), bbox_to_anchor=(0.0, 0.958))
    figure.tight_layout(rect=(0, 0, 1, top))


def _draw(axes: Axes, values: Tensor, average: int, name: str) -> None:
    """values: (T - 1,)."""
    axes.plot(*running_mean(values, average), label=name, **STYLES.get(name, {}))


def differences_by_position(
    panels: dict[str, dict[str, Tensor]], block: int, path: Path, title: str, *, window: int, trained: int
) -> None:
    """A panel for each kind of text: differences in loss, (blocks,) of `block` tokens each, over position.

    Beyond the length that a model was trained for, full attention breaks down, and the differences leave the picture.
    """
    colours = (STYLES[SINKS]["color"], STYLES[TTT]["color"], "#009E73", "#CC79A7")
    average = 16  # blocks
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(2, 2, figsize=(9.6, 6.6), sharex=True, sharey=True, squeeze=False)
        for panel, (kind, curves) in zip(axes.flat, panels.items()):
            for (system, values), colour in zip(curves.items(), colours):
                places, smooth = running_mean(values, average)
                panel.plot([(place + 1) * block for place in places], smooth, label=system, color=colour, linewidth=1.5)
            panel.axhline(0, color="#444444", linewidth=0.8)
            panel.axvline(window, color="#888888", linewidth=0.8, linestyle=":")
            if len(next(iter(curves.values()))) * block > trained:
                panel.axvline(trained, color="#888888", linewidth=0.8, linestyle="--")
            panel.set_title(kind, color="#444444")
            panel.set_ylim(-0.2, 0.25)
            panel.xaxis.set_major_locator(plt.MaxNLocator(5))
            panel.xaxis.set_major_formatter(lambda position, _: f"{position:,.0f}")
        for panel in axes[-1]:
            panel.set_xlabel(f"position, tokens (running mean over {average * block:,})")
        for panel in axes[:, 0]:
            panel.set_ylabel("nats/token")
        _head(figure, f"{title} (dotted: window, dashed: trained length)", axes[0][0], top=0.945)
        _save(figure, path)


def recall_bars(bars: dict[str, tuple[float, ...]], path: Path, title: str, labels: tuple[str, ...]) -> None:
    """Horizontal bars, a group for each system in the order given."""
    names = list(bars)
    height = 0.8 / len(labels)
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(figsize=(7.4, 0.9 + 0.34 * len(names)))
        for number, label in enumerate(labels):
            places = [index + (number - (len(labels) - 1) / 2) * height for index in range(len(names))]
            axes.barh(places, [bars[name][number] for name in names], height * 0.9, label=label)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel("share found")
        figure.suptitle(title, x=0.02, ha="left", fontsize=11, fontweight="bold")
        # Above the bars: any corner between them may be taken by a long one.
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=len(labels))
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
        _head(figure, title, axes[0][0], top=0.94)
        _save(figure, path)


def cost_against_state(points: dict[str, tuple[float, float]], path: Path, title: str, labels: tuple[str, str]) -> None:
    """One named point for each system: state to the right, cost upwards, both logarithmic."""
    with plt.rc_context(figures.LOOK):
        figure, axes = plt.subplots(figsize=(7.6, 5.0))
        for name, (state, cost) in points.items():
            axes.scatter(state, cost, s=22)
            axes.annotate(name, (state, cost), xytext=(5, 4), textcoords="offset points", fontsize=8)
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
        _save(figure, path)
