"""Pictures of results show what was measured: nothing is cut off, and no name covers another."""

from itertools import combinations

import matplotlib.pyplot as plt
import pytest

from benchmarks import pictures, plots
from benchmarks.harness.store import DIRECTORY
from benchmarks.harness.tables import Share

DRAWN = [
    path.stem for path in sorted(DIRECTORY.glob("*.json"))
    if path.stem.startswith(tuple(pictures.PLOTS)) and not path.stem.endswith("_quick")
]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Figures by the name of the file they were meant for, instead of files."""
    found = {}
    monkeypatch.setattr(plots, "_save", lambda figure, path: found.update({path.name: figure}))
    yield found
    plt.close("all")


@pytest.mark.parametrize("name", [pictures.OVERVIEW, *DRAWN])
def test_title_and_legend_of_every_picture_lie_within_it_and_the_file_is_there(name, drawn):
    if name == pictures.OVERVIEW:
        pictures.draw_overview(DIRECTORY / "overview.png")
    else:
        pictures.draw(name)
    assert drawn
    for file, figure in drawn.items():
        assert (DIRECTORY / file).exists(), "run `python -m benchmarks.pictures`"
        figure.canvas.draw()
        edges = figure.bbox
        heads = [*figure.legends, *([figure._suptitle] if figure._suptitle else [axes.title for axes in figure.axes])]
        for part in heads:
            box = part.get_window_extent()
            assert edges.x0 <= box.x0 and box.x1 <= edges.x1 and edges.y0 <= box.y0 and box.y1 <= edges.y1, file


def test_no_name_of_a_point_covers_another(drawn):
    pictures.draw("recurrent")
    (figure,) = drawn.values()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) > 5 and not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_bars_tell_nothing_found_few_questions_and_no_question_apart(drawn, tmp_path):
    bars = {"a": (Share(0, 80), None), "b": (Share(2, 2), Share(9, 12))}
    plots.recall_bars(bars, tmp_path / "bars.png", "Title", ("outside", "inside"))
    axes = drawn["bars.png"].axes[0]
    assert [text.get_text() for text in axes.texts] == ["0 of 80", "2 of 2", "not asked", "9 of 12"]
    hollow = [bar.get_facecolor()[3] == 0 for bar in axes.patches if bar.get_width() == 1]
    assert hollow == [True]


def test_the_interval_of_a_share_is_wilsons():
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-3)
    assert Share(8, 10).interval == pytest.approx((0.4902, 0.9433), abs=1e-3)
