"""How the tables of meta-learning are filled: rows that are there stay, and weights are not trained again."""

import argparse
import json
from functools import partial

import pytest
import torch
from tiny import tiny

from benchmarks import meta_run
from benchmarks.meta_tables import BASE, FULL
from ttt_retrofit import TTTConfig, wrap

SETTINGS = {"window": 512}


def square(number):
    return {f"{number}, seed 0": number**2}


def lines_of(rows, options):
    return [f"{name}: {row}" for name, row in rows.items()], {}


def fill(wanted, jobs=1):
    def tasks(rows):
        return {f"{n}": partial(square, n) for n in wanted if f"{n}, seed 0" not in rows}

    meta_run.fill("it", SETTINGS, argparse.Namespace(jobs=jobs), tasks, lines_of)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    threads = torch.get_num_threads()
    rows = {FULL: {"essay": [2.0]}, BASE: {"on": {}}}
    (tmp_path / "it.json").write_text(json.dumps({"settings": SETTINGS, "rows": rows, "where": {FULL: "elsewhere"}}))
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("jobs", [1, 2])
def test_rows_are_added_and_say_where_they_were_measured(results, jobs):
    fill([2, 3], jobs)

    report = json.loads((results / "it.json").read_text())
    assert report["rows"]["2, seed 0"] == 4 and report["rows"]["3, seed 0"] == 9
    assert report["where"][FULL] == "elsewhere" and "torch" in report["where"]["2, seed 0"]
    assert "elsewhere; " in (results / "it.md").read_text() or "; elsewhere" in (results / "it.md").read_text()


def test_a_row_that_is_there_is_not_made_again(results, monkeypatch):
    fill([2])
    monkeypatch.setitem(globals(), "square", lambda number: {f"{number}, seed 0": "again"})
    fill([2, 3])

    rows = json.loads((results / "it.json").read_text())["rows"]
    assert rows["2, seed 0"] == 4 and rows["3, seed 0"] == "again"


def test_what_was_trained_once_is_loaded(tmp_path, monkeypatch):
    def new_model(options):
        return wrap(tiny("llama"), TTTConfig(fast_weights="lora", rank=2, chunk_size=8, sliding_window=16))

    def make():
        model = new_model(None)
        with torch.no_grad():
            model.sites[0].log_lr += 1
        return model, [{"loss": 1.0}]

    monkeypatch.setattr(meta_run, "new_model", new_model)
    trained, _ = meta_run.trained_once(tmp_path / "it.pt", None, make)
    loaded, log = meta_run.trained_once(tmp_path / "it.pt", None, lambda: pytest.fail("trained again"))

    assert log == [{"loss": 1.0}]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_what_is_read_does_not_change_where_weights_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TTT_RETROFIT_CACHE", str(tmp_path))
    kept = meta_run.weights_directory("it", {"window": 512, "tokens": 4096})

    assert kept == meta_run.weights_directory("it", {"tokens": 8192, "window": 512})
    assert kept != meta_run.weights_directory("it", {"window": 256, "tokens": 4096})
