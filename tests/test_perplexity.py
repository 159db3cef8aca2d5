"""Tables of loss by position: from stored blocks of tokens, with intervals, and what is missing only is read again."""

import pytest
import torch

from benchmarks import perplexity_by_position as benchmark
from benchmarks.measure import FULL, SINKS, TTT, Reading
from benchmarks.perplexity_report import BLOCK, KINDS, STRETCH, closed, differences, lines, plot, stored

LEARNING = f"{TTT} (default)"
TOKENS = 4096


def report(gap: float, share: float, noise: float = 0.01) -> dict:
    """Every text, read in three ways: window + sinks is `gap` above full attention, learning closes `share` of it."""
    torch.manual_seed(0)
    rows = {}
    for name in KINDS:
        full = 3 + torch.randn(TOKENS // BLOCK)
        for system, above in {FULL: 0.0, SINKS: gap, LEARNING: gap * (1 - share)}.items():
            losses = full + above + noise * torch.randn(TOKENS // BLOCK)
            rows[f"{name}: {system}"] = {"losses": losses.tolist(), "text": "one"}
    settings = {"model": "a model", "window": 512, "sinks": 4, "tokens": TOKENS}
    return {"settings": settings, "rows": rows, "lengths": [TOKENS // 2, TOKENS], "trained": TOKENS // 2}


def test_what_is_stored_of_a_reading_is_the_mean_of_every_block_its_last_one_shorter():
    losses = torch.arange(2 * BLOCK - 1, dtype=torch.float32)
    found = benchmark.row(Reading(losses, 1.0, 2), "digest")
    assert found["losses"] == [(BLOCK - 1) / 2, (BLOCK + 2 * BLOCK - 2) / 2] and found["tokens"] == 2 * BLOCK


def test_the_gap_that_is_closed_and_its_interval():
    losses = stored(report(0.1, 0.75))
    found = closed(differences(losses, LEARNING, slice(None)), texts_too=True)
    share, low, high = (float(part.strip("(%)")) for part in found.replace(" to ", " ").split())
    assert low <= 75 <= high and high - low < 5 and share == pytest.approx(75, abs=2)


def test_where_window_and_sinks_is_not_surely_worse_no_gap_is_closed():
    for gap in (-0.02, -0.1):
        assert closed(differences(stored(report(gap, 0.5)), LEARNING, slice(None)), texts_too=False) == "no gap"


def test_an_interval_covers_the_true_difference_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        losses = {"emma": {FULL: torch.zeros(160), SINKS: torch.ones(160)}}
        losses["emma"][LEARNING] = 0.5 + torch.randn(40, generator=generator).repeat_interleave(STRETCH)
        found = closed(differences(losses, LEARNING, slice(None)), texts_too=False)
        _, low, high = (float(part.strip("(%)")) for part in found.replace(" to ", " ").split())
        covered += low <= 50 <= high
    assert 52 <= covered <= 60


@pytest.mark.slow
def test_tables_and_picture_of_all_kinds(tmp_path):
    table = lines(report(0.1, 0.75))
    row = [line for line in table if line.startswith(f"| {LEARNING} | all texts")][-1]
    assert "8 of 8 | 0 of 8" in row
    assert any("512 to 1,024 | 1,024 to 2,048 | 2,048 to 4,096" in line for line in table)
    plot(report(0.1, 0.75), tmp_path / "it.png")
    assert (tmp_path / "it.png").stat().st_size > 10_000


def test_a_text_that_was_not_read_by_the_controls_is_left_out_and_nothing_at_all_is_said_to_be_unfinished():
    some = report(0.1, 0.75)
    some["rows"] = {key: row for key, row in some["rows"].items() if key != f"emma: {SINKS}"}
    assert "emma" not in stored(some) and "persuasion" in stored(some)
    assert "Not finished." in lines(some | {"rows": {}})


def test_only_what_is_missing_is_read_and_another_edition_of_a_text_again():
    rows = {f"emma: {FULL}": {"text": "one"}, f"turtle: {FULL}": {"text": "old"}}
    found = [*benchmark.missing(rows, {"emma": "one", "turtle": "new"}, [FULL, SINKS])]
    assert found == [("emma", SINKS), ("turtle", FULL), ("turtle", SINKS)]


def test_a_meta_learned_row_says_what_it_needs_and_the_table_that_it_is_missing(capsys):
    with pytest.raises(SystemExit, match="needs --checkpoint"):
        benchmark.main(["--only", benchmark.META])
    assert any(line.startswith(f"Not read: {benchmark.META}") for line in lines(report(0.1, 0.75)))
