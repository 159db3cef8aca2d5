"""`consolidate` of a conversation from end to end on a tiny model: facts, questions and answers are by a script.

What a random model learns of them is nothing; `test_consolidate_real.py` has that.
"""

import dataclasses

import pytest
from consolidated import CONFIG
from converted import speaker
from scripted import script
from words import tokenizer

from ttt_retrofit import Cancelled, Memory
from ttt_retrofit.consolidation.verify import verification as verify

TALK = [
    {"role": "system", "content": "the code is 7719 ."},
    {"role": "user", "content": "so my dog is called Bolt ."},
    {"role": "user", "content": "so Marek lives in Antwerp .", "date": "2026-03-07"},
    {"role": "assistant", "content": "who plays chess ?"},
    {"role": "tool", "content": "the museum is in Leeds ."},
    {"role": "user", "content": "so Marek lives in Braga .", "timestamp": "2026-04-02T10:00:00"},
]
FACTS = {
    "Bolt": "my dog is called Bolt .",
    "Antwerp": "Marek lives in Antwerp .",
    "museum": "the museum is in Leeds .",
    "Braga": "Marek now lives in Braga .",
    "chess": "my wife Fernanda plays chess .",  # nobody said so
    "7719": "the code is 7719 .",  # the application's, which no writer sees
}
QUESTIONS = {
    "Bolt": "Bolt | what is my dog called ?",
    "Antwerp": "Antwerp | where lives Marek ?",
    "museum": "Leeds | where is the museum ?",
    "Braga": "Braga | where lives Marek now ?",
    "Lucien": "Leeds | where lives Marek ?\nLucien | who lives in Leeds ?",
}
AGAIN = {"Bolt": "who is my dog ?", "Leeds": "what has the museum in it ?", "Braga": "where is Marek now ?"}
CHANGES = {"lives in Antwerp": "lives in Braga"}
STILL = {"Braga": "lives Marek in Antwerp ?"}


def says(asked, told):
    """Answers out of what was told last."""
    if asked == STILL["Braga"]:
        return "no , Marek now lives in Braga ."
    if "dog" in asked:
        return "the dog is called Bolt ." if "dog" in told else "Otto ."
    if "museum" in asked:
        return "the museum is in Leeds ."
    place = next((place for place in ("Leeds", "Braga", "Antwerp") if f"lives in {place}" in told), "Runa")
    return f"Marek lives in {place} ." if "Marek" in asked else "Otto ."


def scripted(facts=FACTS, questions=QUESTIONS, again=AGAIN):
    return script(facts, questions, again, CHANGES, STILL, says)


@pytest.fixture
def model():
    return speaker()


def consolidate(model, directory, context=TALK, writer=None, **changes):
    settings = {"budget": {"steps": 2}, "config": CONFIG, "work_dir": directory, "date": "2026-03-05", **changes}
    return model.consolidate(context, tokenizer=tokenizer(), writer=writer or scripted(), **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What a writer was asked about the talk, and the memory of it."""
    writer = scripted()
    return writer, consolidate(speaker(), tmp_path_factory.mktemp("work"), writer=writer)


def by_text(memory):
    return {fact.text: fact for fact in memory.facts(None)}


def test_what_was_told_becomes_facts_with_who_said_them_and_when(made):
    _, memory = made
    facts = by_text(memory)
    assert [(fact.text, fact.said_by, fact.said_at, fact.messages) for fact in memory.facts()] == [
        ("my dog is called Bolt .", "user", "2026-03-05", (1,)),
        ("the museum is in Leeds .", "tool", "2026-03-07", (4,)),
        ("Marek now lives in Braga .", "user", "2026-04-02", (5,)),
    ]
    gone = facts["Marek lives in Antwerp ."]
    assert (gone.status, gone.superseded_by) == ("superseded", facts["Marek now lives in Braga ."].id)
    assert "7719" not in str(facts) and "Fernanda" not in str(facts)
    report = memory.report
    assert (report.facts, report.superseded, report.dropped) == (3, 1, 1)
    assert report.questions == 3, "one for every fact that holds"
    assert set(report.unlearned) == {fact.id for fact in memory.unlearned()} and memory.entries[0].facts


def test_no_system_prompt_is_shown_to_whoever_writes(made):
    writer, memory = made
    assert writer.asked and not any("7719" in asked for asked in writer.asked)
    taught = [tokenizer().decode(lesson.answer) for lesson in memory.entries[0].lessons]
    assert taught and not any("7719" in answer for answer in taught)


def test_what_does_not_hold_any_more_is_neither_taught_nor_asked_for(made):
    _, memory = made
    lessons = [lesson for lesson in memory.entries[0].lessons if lesson.kind in ("fact", "overview", "text")]
    assert not any("Antwerp" in tokenizer().decode(lesson.answer) for lesson in lessons)
    assert sum(lesson.held_out for lesson in lessons) == 3
    studied = {lesson.prompt for lesson in lessons if not lesson.held_out}
    assert not studied & {lesson.prompt for lesson in lessons if lesson.held_out}


@pytest.mark.slow
def test_facts_that_are_recalled_are_marked_as_learned(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verify, "holds", lambda answer, value: "bolt" in value)
    memory = consolidate(model, tmp_path, min_recall=0.2)
    assert {fact.text: fact.learned for fact in memory.facts()} == {
        "my dog is called Bolt .": True, "the museum is in Leeds .": False, "Marek now lives in Braga .": False,
    }  # fmt: skip
    assert memory.report.recall == pytest.approx(1 / 3)
    assert [fact.text for fact in memory.unlearned()] == ["the museum is in Leeds .", "Marek now lives in Braga ."]


LATER = [{"role": "user", "content": "so Marek and Lucien lives in Leeds ."}]
LATER_FACTS = {"Lucien": "Marek and Lucien lives in Leeds ."}


@pytest.mark.slow
def test_a_later_context_supersedes_a_fact_and_takes_its_lesson_away(model, tmp_path):
    config = dataclasses.replace(CONFIG, memory=dataclasses.replace(CONFIG.memory, gated=False))  # every gate is open
    first = consolidate(model, tmp_path, config=config)
    writer = scripted(LATER_FACTS, QUESTIONS, {"Leeds": "where is Lucien ?", "Lucien": "who is in Leeds ?"})
    second = consolidate(model, tmp_path, LATER, writer, config=config, date="2026-05-01")
    facts = by_text(second)
    new = facts["Marek and Lucien lives in Leeds ."]
    assert (facts["Marek now lives in Braga ."].status, facts["Marek now lives in Braga ."].superseded_by) == (
        "superseded",
        new.id,
    )
    assert new.said_at == "2026-05-01" and new.status == "current"
    assert facts["my dog is called Bolt ."].status == "current" and second.report.superseded == 1
    before, after = first.entries[0], second.entries[0]
    left = {lesson.prompt for lesson in after.lessons}
    gone = [lesson for lesson in before.lessons if lesson.prompt not in left]
    assert gone and all("Braga" in tokenizer().decode(lesson.answer) for lesson in gone)
    assert [fact.text for fact in model.rollback_memory().facts()] == [fact.text for fact in first.facts()]


def test_facts_are_saved_and_forgotten_with_the_memory(made, tmp_path):
    _, memory = made
    memory.save(tmp_path)
    assert Memory.load(tmp_path).facts(None) == memory.facts(None)
    assert memory.forget(*memory.names()).facts(None) == []


@pytest.mark.slow
def test_a_cancelled_study_asks_the_writer_for_nothing_twice(model, tmp_path):
    writer, again = scripted(), scripted()
    whole = consolidate(model, tmp_path / "whole", writer=writer)
    model.reset_memory()

    def stop(now):
        if now.stage == "answers":
            raise Cancelled("for the test")

    with pytest.raises(Cancelled):
        consolidate(model, tmp_path / "parts", writer=again, progress=stop)
    done = len(again.asked)
    resumed = consolidate(model, tmp_path / "parts", writer=again)
    assert 0 < done < len(again.asked) and again.asked == writer.asked
    assert [fact.to_dict() for fact in resumed.facts(None)] == [fact.to_dict() for fact in whole.facts(None)]


@pytest.mark.slow
def test_a_document_has_questions_and_no_facts(model, tmp_path):
    writer = scripted({}, {"museum": "Leeds | where is the museum ?"}, {"Leeds": "what has the museum in it ?"})
    memory = consolidate(model, tmp_path, "the old museum is in Leeds .", writer)
    assert memory.facts(None) == [] and memory.report.facts == 0 and memory.report.questions == 1
    assert memory.entries[0].sources[0].kind == "text"


def test_what_a_script_cannot_ask_about_is_not_accepted(model, tmp_path):
    memory = consolidate(model, tmp_path, writer=scripted({}, {}, {}))
    assert not memory.report.accepted and "no question about the context" in memory.report.reason
    assert memory.entries == () and model.memory is None
