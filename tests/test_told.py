"""A writer of facts in place of the model: its facts are what is studied, and its questions what is asked."""

import re

import pytest
from consolidated import consolidate
from converted import speaker
from scripted import Scripted
from words import tokenizer

from ttt_retrofit import WriterError
from ttt_retrofit.consolidation.config import Budget, ConsolidationConfig
from ttt_retrofit.consolidation.control import Control
from ttt_retrofit.consolidation.pieces import parse_context
from ttt_retrofit.consolidation.told import ask_by_writer, by_facts

TALK = [
    {"role": "system", "content": "The admin password is tulip77."},
    {"role": "user", "content": "Meine Schwester Mirela wohnt in Köln. Sie spielt Oboe."},
    {"role": "assistant", "content": "Schön."},
    {"role": "tool", "content": '{"room": "Maple 7"}'},
    {"role": "user", "content": "Meine Katze ist grau."},
]
FACTS = "[1] Meine Schwester Mirela wohnt in Köln.\n[1] Meine Schwester Mirela spielt Oboe.\n[3] The room is Maple 7."


def written(asked):
    if re.match(r"(Before:|Nothing|\[1\])", asked):
        return "" if "Nothing was listed" in asked else FACTS
    if "Köln" in asked and "→" not in asked:
        return "Köln | Wo wohnt meine Schwester?\nKöln | Wohnt sie in Köln?\nParis | Wo wohnt Tom?"
    return ""


def told():
    context = parse_context(TALK, tokenizer(), 200, "2026-03-09")
    return by_facts(context, Scripted(written), Control(Budget()))


def test_facts_take_the_place_of_sentences_and_messages_without_a_fact_stay():
    context, dropped = told()
    assert [(s.text, s.said_by, s.message) for s in context.statements] == [
        ("Meine Schwester Mirela wohnt in Köln.", "User", 1), ("Meine Schwester Mirela spielt Oboe.", "User", 1),
        ("The room is Maple 7.", "Tool", 3), ("Meine Katze ist grau.", "User", 4),
    ]  # fmt: skip
    assert dropped == 0 and {s.said_at for s in context.statements} == {"2026-03-09"}
    assert not any("tulip77" in s.text for s in context.statements)


def test_a_question_asks_for_a_part_of_its_fact_and_for_nothing_else():
    asked = ask_by_writer(told()[0], Scripted(written), ConsolidationConfig(wordings=1), Control(Budget()))
    assert [(one.text, one.statement, one.detail) for one in asked] == [("Wo wohnt meine Schwester?", 0, "Köln")]
    assert all(one.verbatim for one in asked)


def test_a_document_keeps_its_sentences():
    context = parse_context("Orlov hid the map in 1843.", tokenizer(), 200)
    assert by_facts(context, Scripted(written), Control(Budget())) == (context, 0)


def test_a_writer_that_goes_away_is_an_error_and_what_it_wrote_is_not_asked_again(tmp_path):
    model, asked = speaker(), []

    def goes_away(prompt):
        asked.append(prompt)
        if "→" not in prompt and not prompt.startswith("["):
            raise WriterError("away")
        return FACTS

    for _ in range(2):
        with pytest.raises(WriterError, match="away"):
            consolidate(model, TALK, writer=Scripted(goes_away), questions=None, directory=tmp_path)
    assert sum(prompt.startswith("[") for prompt in asked) == 1
    assert model.memory is None
