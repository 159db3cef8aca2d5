"""The page of results is what `results/` says, and what is stored names nothing of the machine it was made on."""

import json
import re
from datetime import date
from functools import partial

import pytest

from benchmarks import ablations, report
from benchmarks.harness.machine import machine
from benchmarks.harness.store import DIRECTORY, Store, dated, days, made, save, stored_report
from ttt_retrofit import TTTConfig
from ttt_retrofit.memory.report import Report


def test_the_page_is_what_the_stored_results_say():
    assert report.PAGE.read_text() == report.page(), "run `python -m benchmarks.report`"


def test_every_figure_of_a_table_of_the_readme_and_of_the_summary_is_one_that_is_stored():
    stored = " ".join(path.read_text() for path in DIRECTORY.glob("*.md"))
    known = set(re.findall(r"\d[\d,]*(?:\.\d+)?", stored))
    summary = report.page().partition("## How each figure is made")[0]
    readme = (report.PAGE.parent.parent / "README.md").read_text()
    rows = [line for line in f"{summary}\n{readme}".splitlines() if line.startswith("|")]
    assert len(rows) > 30
    for row in rows:
        said = re.sub(r"\(.*?\)|^\|[^|]*", lambda m: m[0] if "%" in m[0] else "", row)  # addresses, names of rows
        for figure, percent in re.findall(r"(\d[\d,]*(?:\.\d+)?)(%?)", said):
            assert figure in known or (percent and f"{int(figure) / 100:.2f}" in known), f"{figure} of {row}"


def test_the_report_that_the_readme_shows_is_a_stored_one():
    rows = json.loads((DIRECTORY / "consolidation.json").read_text())["done"]["table"]["consolidated memory"]
    readme = (report.PAGE.parent.parent / "README.md").read_text()
    assert f"```\n{Report.from_dict(rows['0']['report'])}\n```" in readme


def test_tables_of_the_page_that_are_too_wide_are_several_whose_rows_keep_their_names():
    header = ["name", "of", *(f"column {n}" for n in range(9))]
    table = [header, ["---"] * 11, *([name, of, *"123456789"] for name in "ab" for of in "xy")]
    lines = report.split(table)
    assert [line.count("|") - 1 for line in lines if line.startswith("| name")] == [7, 6]
    assert "| b | x | 1 | 2 | 3 | 4 | 5 |" in lines and "| b | x | 6 | 7 | 8 | 9 |" in lines
    assert report.split([*table[:2], ["a", "x", *"123456789"]])[0].startswith("| name | of")


def test_every_stored_result_is_on_the_page():
    page = report.PAGE.read_text()
    for path in DIRECTORY.glob("*.json"):
        if not path.stem.endswith("_quick"):
            assert f"results/{path.stem}.md" in page, f"no section of report.toml is about {path.stem}"


def test_a_result_says_when_and_how_it_was_made_and_names_no_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["needle.py", "--locomo", "/home/somebody/locomo10.json", "--only", "full attention"]
    )
    assert made()["command"].endswith('--locomo locomo10.json --only "full attention"')
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    save("one", {"rows": {}}, ["Nothing."])
    assert json.loads((tmp_path / "one.json").read_text())["made"].keys() == {"date", "command"}


def kept(settings):
    return Store.of_machine("it", settings, lambda report: ["Nothing."]).rows


def test_rows_of_the_same_settings_and_machine_are_kept_and_those_that_failed_are_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    settings = {"window": 512, "presets": {"fast": {"layers": (1, 2)}}}
    rows = {"one": {"read": 1.0}, "two": {"failed": "no memory"}}
    assert kept(settings) == {}
    save("it", {"settings": settings, "machine": machine() | {"load_average": 99}, "rows": rows}, ["Nothing."])
    assert kept(settings) == {"one": {"read": 1.0}}
    assert kept(settings | {"window": 256}) == {}
    save("it", {"settings": settings, "machine": machine() | {"threads": 99}, "rows": rows}, ["Nothing."])
    assert kept(settings) == {}


def test_rows_that_are_missing_are_measured_and_saved_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.harness.store.DIRECTORY", tmp_path)
    asked = []

    def page(report):
        return [", ".join(report["rows"])]

    def measure(name):
        asked.append((name, [*stored_report("it").get("rows", {})]))
        return {"failed": "why"} if len(asked) == 2 else {"read": 1.0}

    measures = {name: partial(measure, name) for name in ("one", "two", "three")}
    for _ in range(2):
        Store.of_machine("it", {}, page).fill(measures)
    assert asked == [("one", []), ("two", ["one"]), ("three", ["one", "two"]), ("two", ["one", "two", "three"])]
    assert stored_report("it")["rows"] == {name: {"read": 1.0} for name in ("one", "three", "two")}
    assert "one, three, two" in (tmp_path / "it.md").read_text()


@pytest.mark.parametrize("path", sorted(DIRECTORY.glob("*.json")), ids=lambda path: path.stem)
def test_no_stored_result_names_a_directory(path):
    assert "/home/" not in path.read_text() and "/tmp/" not in path.read_text()


def test_rows_that_are_older_than_a_setting_are_not_measured_again():
    stored = json.loads((DIRECTORY / "ablations.json").read_text())
    for name in ("default", "fast", "lora, rank 16, lr 4e-3"):
        row = {"config": {k: v for k, v in stored["rows"][name]["config"].items() if k != "inner_rule"}}
        expected = TTTConfig(**{**ablations.SETTINGS[name], "sliding_window": stored["settings"]["window"]})
        assert ablations._config_of(row) == expected


def test_a_setting_is_held_against_reading_without_learning_under_its_own_window_and_sinks():
    wanted = ablations.settings_and_controls(["default", "window 256", "no sinks"], 512)
    control = "not learning, window 256, 4 sinks"
    assert [*wanted] == [
        *("full attention", "window + sinks", "default"),
        *(control, "window 256", "not learning, window 512, 0 sinks", "no sinks"),
    ]
    assert wanted[control] == TTTConfig(sliding_window=256, learn_from="none")
    assert wanted["window 256"] == TTTConfig(sliding_window=256)
    presets = ablations.settings_and_controls(["default", "fast", "small"], 512)
    assert {config.sliding_window for config in presets.values() if config} == {512}
    losses = {"full attention": 2.0, "window + sinks": 3.0, control: 4.0, "window 256": 2.5, "default": 2.5}
    rows = {name: {"loss": dict.fromkeys(ablations.TEXTS, loss), "control": control} for name, loss in losses.items()}
    del rows["default"]["control"]  # rows of old have the shared one
    assert ablations.gap_closed(rows, "window 256") == 0.75 and ablations.gap_closed(rows, "default") == 0.5


def test_a_table_says_when_its_rows_were_measured():
    first, last = {"date": "2026-01-02"}, dated({"recall": 1.0})
    assert last == {"recall": 1.0, "date": date.today().isoformat()}
    assert days([last, first, {}]) == f"2026-01-02 to {last['date']}"
    assert days([first, first]) == "2026-01-02" and "not recorded" in days([{}])
