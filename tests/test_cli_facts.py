"""The command line shows facts, and takes who writes and when it was said."""

import dataclasses
import json

import pytest
from commands import document, fails, run
from converted import converted
from test_memory_facts import BOLT, GRAZ, MOVED, OSLO, REPORT, told

from ttt_retrofit.consolidation.facts.writers import EndpointWriter
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit_cli import loading


@pytest.fixture(scope="module")
def made():
    return told(converted(), [BOLT, MOVED], [GRAZ, OSLO])


def test_facts_are_listed_with_their_state(made, tmp_path):
    MemoryStore(tmp_path / "memory").save(made)
    shown = run("memory", "facts", tmp_path).stdout
    rows = {
        line.split()[0]: line for line in shown.splitlines() if line.split() and line.split()[0] in (BOLT.id, GRAZ.id)
    }
    assert "words" in rows[GRAZ.id] and "2026-04-01" in rows[GRAZ.id] and "words" not in rows[BOLT.id]
    assert "learned" in shown and "superseded" not in shown and "Bolt" in shown
    assert "superseded" in run("memory", "facts", tmp_path, "--status", "all").stdout
    said = document("memory", "facts", tmp_path, "--status", "superseded", "--version", "1")
    assert said == {"memory": str(tmp_path), "facts": [MOVED.to_dict()]}
    assert [entry["facts"] for entry in document("memory", "show", tmp_path)["entries"]] == [2, 2]
    assert "new" in run("memory", "facts", tmp_path, "--status", "new", code=1).stderr


@pytest.fixture
def consolidating(made, monkeypatch, tmp_path):
    """What `consolidate` was asked for; it makes the same memory each time."""
    asked = {}

    class Maker:
        def consolidate(self, context, **settings):
            asked.update(settings, context=context)
            report = dataclasses.replace(REPORT, accepted=asked.get("accepted", True), facts=3, unlearned=(GRAZ.id,))
            return dataclasses.replace(made, report=report)

    monkeypatch.setattr(loading, "load_model", lambda name, options: Maker())
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: None)
    (tmp_path / "said.json").write_text(json.dumps([{"from": "human", "value": "Hi.", "timestamp": "2026-03-01"}]))
    return asked


def test_consolidate_takes_a_day_and_a_writer_and_says_what_was_not_learned(consolidating, tmp_path):
    arguments = ["consolidate", "model", tmp_path / "said.json", "--memory", tmp_path / "ines"]
    shown = run(*arguments, "--date", "2026-03-09", "--writer", "http://host/v1#m").stdout
    assert "Not learned, kept as words: The user lives in Graz. (user, 2026-04-01)" in shown
    assert (
        consolidating["writer"] == EndpointWriter("http://host/v1", "m") and str(consolidating["date"]) == "2026-03-09"
    )
    assert consolidating["context"] == [{"role": "user", "content": "Hi.", "timestamp": "2026-03-01"}]
    assert document(*arguments)["unlearned"] == [GRAZ.to_dict()]
    consolidating["accepted"] = False
    assert "Not learned" not in run(*arguments, code=1).stdout


@pytest.mark.parametrize("verb", ["consolidate", "chat", "serve"])
def test_a_writer_or_a_day_that_is_none_is_refused_before_a_model_is_loaded(verb, tmp_path):
    (tmp_path / "said.txt").write_text("Bolt barks.")
    told = [tmp_path / "said.txt", "--memory", tmp_path / "ines"] if verb == "consolidate" else []
    assert "is no URL" in fails(verb, "no/such/model", *told, "--writer", "gpt2")
    if told:
        assert "--date is 'soon'" in fails(verb, "no/such/model", *told, "--date", "soon")
