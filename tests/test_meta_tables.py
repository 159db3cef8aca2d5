"""The tables of meta-learning: what updates gain beyond the control, and how sure that is."""

import pytest

from benchmarks.meta_tables import by_seed, compare, tables

CONTROL = {"off": [2.0, 2.0, 2.0, 2.0], "on": [1.9, 1.9, 1.9, 1.9]}
OURS = {"off": [2.1, 2.1, 2.1, 2.1], "on": [1.9, 1.9, 1.8, 1.6]}  # a gain that grows


def row(losses):
    """The same losses for two texts."""
    return {state: {"essay": values, "code": values} for state, values in losses.items()}


def shifted(losses, by):
    return row(losses | {"on": [loss + by for loss in losses["on"]]})


def test_the_interaction_is_a_gain_less_the_controls():
    compared = compare([row(OURS)], [row(CONTROL)])

    assert compared["interaction"][0] == pytest.approx(0.3 - 0.1)
    assert compared["last"][0] == pytest.approx(0.5 - 0.1)
    assert compared["end"][0] == compared["best"][0] == pytest.approx(-0.1)


def test_a_control_that_updates_harm_is_at_its_best_without_them():
    compared = compare([row(OURS)], [shifted(CONTROL, 0.3)])

    assert compared["end"][0] == pytest.approx(1.8 - 2.2)
    assert compared["best"][0] == pytest.approx(1.8 - 2.0)


def test_of_several_seeds_the_interval_is_students():
    seeds = [shifted(OURS, by) for by in (-0.01, 0.0, 0.01)]

    mean, low, high = compare(seeds, [row(CONTROL)] * 3)["end"]

    reach = 4.30 * 0.01 / 3**0.5  # two degrees of freedom
    assert (mean, low, high) == pytest.approx((-0.1, -0.1 - reach, -0.1 + reach))


def test_of_one_seed_the_interval_is_over_chunks():
    mean, low, high = compare([row(OURS)], [row(CONTROL)])["end"]

    assert low < mean < high
    assert low > 1.6 - 1.9 and high <= 0  # no draw of chunks goes beyond the best and the worst of them


def test_rows_are_found_by_system_and_seed():
    rows = {"base": 1, "none, seed 0": 2, "none, seed 11": 3, "none + none, seed 0": 4}

    assert by_seed(rows, "none") == {0: 2, 11: 3}


def test_only_seeds_that_the_control_has_are_compared():
    systems = {"control": {0: row(CONTROL)}, "exact": {0: row(OURS), 1: shifted(OURS, 5)}}

    lines, compared = tables(systems, {"exact": "control"}, {"essay": [2.0] * 4, "code": [2.0] * 4})

    assert compared["exact"]["end"][0] == pytest.approx(-0.1)
    assert "| exact | 2 | 2.1000 | 4.3000 |" in "\n".join(lines)  # what is reached is of both
    assert any(line.startswith("| control | -0.1000 ") for line in lines)  # full attention is at 2
