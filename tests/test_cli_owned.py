"""`memory forget-fact`, `correct-fact`, `add-fact`, and what of a conversation is kept."""

import dataclasses
import json

import pytest
from commands import document, fails, run
from converted import converted
from test_memory_facts import BOLT, OSLO, REPORT, told
from words import tokenizer

from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit_cli import loading


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What a model was asked for, which changes the memory of a directory."""
    memory, calls = told(converted(), [BOLT, OSLO]), []
    MemoryStore(tmp_path / "memory").save(memory)

    class Changer:
        def check_memory(self, memory):
            pass

        def _made(self, *call):
            calls.append(call)
            return dataclasses.replace(memory, report=dataclasses.replace(REPORT, accepted="Rome" not in call))

        def forget_fact(self, *facts, earlier, **settings):
            return self._made("forget", *facts)

        def correct_fact(self, fact, text, *, date, **settings):
            return self._made("correct", fact, text, date)

        def add_fact(self, text, date, **settings):
            return self._made("add", text, date)

        def consolidate(self, context, **settings):
            return self._made(settings["policy"], settings["review"]([BOLT, OSLO]))

    monkeypatch.setattr(loading, "load_model", lambda name, options: calls.append(name) or Changer())
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: tokenizer())
    return calls


def test_a_fact_is_deleted_after_a_yes_by_the_base_that_the_memory_names(asked, tmp_path):
    assert "Delete" in run("memory", "forget-fact", tmp_path, BOLT.id, stdin="n\n", code=1).stderr and asked == []
    run("memory", "forget-fact", tmp_path, BOLT.id, stdin="y\n")
    assert asked == ["tiny", ("forget", BOLT.id)]
    shown = run("memory", "forget-fact", tmp_path, BOLT.id, OSLO.id, "--yes", "--purge", "--model", "other").stdout
    assert asked[2:] == ["other", ("forget", BOLT.id, OSLO.id)] and "Deleted 2 facts. Saved as version 3." in shown
    assert MemoryStore(tmp_path / "memory").versions() == [3]
    assert "No fact has the id 'x'" in fails("memory", "forget-fact", tmp_path, "x", "--yes")


def test_a_fact_is_corrected_and_added_and_what_is_not_accepted_ends_with_1(asked, tmp_path):
    arguments = ["memory", "correct-fact", tmp_path, OSLO.id, "I live in Graz.", "--date", "2026-05-01", "--yes"]
    assert document(*arguments)["version"] == 2
    assert asked[1] == ("correct", OSLO.id, "I live in Graz.", "2026-05-01")
    assert "Saved as version 3" in run("memory", "add-fact", tmp_path, "I play chess.").stdout
    assert asked[3] == ("add", "I play chess.", None)
    assert "Not saved" in run("memory", "add-fact", tmp_path, "Rome", code=1).stdout
    assert "Give --model" in fails("memory", "add-fact", tmp_path / "new", "I play chess.")


def test_consolidate_asks_for_every_fact_and_takes_a_policy(asked, tmp_path):
    (tmp_path / "said.json").write_text(json.dumps([{"role": "user", "content": "Hi."}]))
    arguments = ["consolidate", "model", tmp_path / "said.json", "--memory", tmp_path / "ines"]
    said = run(*arguments, "--policy", "Nothing about health.", "--review", stdin="y\nn\n").stderr
    assert asked[1] == ("Nothing about health.", [BOLT]) and "Keep: The user's dog is called Bolt." in said
