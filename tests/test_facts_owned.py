"""Facts one by one: deleted, corrected, added; only what depends on them is distilled again."""

import dataclasses

import numpy as np
import pytest
import torch
from converted import speaker
from owned import ANTWERP, BOLT, LEEDS, PROMPTS, RECIPE, SETTINGS, STUDY, TALK, WORDS, ids, remembered, study, tells
from remembered import digests

from benchmarks.conversations import Fact
from benchmarks.left_on_disk import Left
from ttt_retrofit import ChatSession, ConfigError, InputError, Memory
from ttt_retrofit.chat.directory import STORE
from ttt_retrofit.consolidation.config import Budget
from ttt_retrofit.consolidation.control import Control
from ttt_retrofit.consolidation.forgetting import Forgetting
from ttt_retrofit.consolidation.study.studied import Studying
from ttt_retrofit.consolidation.verify.deletion import ForgottenVerification
from ttt_retrofit.memory.facts import without
from ttt_retrofit.memory.store import MemoryStore

PANDA = "my dog is called Panda ."
CONTROL = Control(Budget())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield remembered(speaker(), tmp_path_factory.mktemp("work"), patch, notepad=64, keep_text=True)


@pytest.fixture
def model(made, monkeypatch):
    """It has the memory loaded."""
    monkeypatch.setattr(Studying, "study", study)
    loaded = speaker()
    loaded.load_memory(made)
    return loaded


def forget(model, *facts, **changes):
    return model.forget_fact(*facts, config=RECIPE, **{**SETTINGS, **changes})


def test_a_lesson_knows_the_facts_that_it_tells_also_in_turns_before_its_question(made):
    name = ids(made)
    for word, text in (("Bolt", BOLT), ("Antwerp", ANTWERP), ("Leeds", LEEDS)):
        for lesson in made.entries[0].lessons:
            told = word in WORDS.decode([*lesson.prompt, *lesson.answer]).split()
            assert not told or name[text] in lesson.facts
    by_kind = {}
    for lesson in made.entries[0].lessons:
        by_kind.setdefault(lesson.kind, set()).add(lesson.facts)
    assert by_kind["fact"] == {(name[text],) for text in (BOLT, ANTWERP, LEEDS)}
    assert by_kind["overview"] == {tuple(name.values())}
    for kind in ("unknown", "general"):
        assert () in by_kind[kind] and len(by_kind[kind]) > 1, "some come after personal turns"


def test_what_lessons_depend_on_is_saved(made, tmp_path):
    made.save(tmp_path)
    loaded = Memory.load(tmp_path)
    assert [x.facts for x in loaded.entries[0].lessons] == [x.facts for x in made.entries[0].lessons]


def test_a_deleted_fact_leaves_nothing_and_the_others_stay(model, made):
    before = made.entries[0]
    left = forget(model, ids(made)[BOLT])
    after = left.entries[0]
    assert model.memory is left and left.report.accepted and left.report.forgotten == 1
    assert [fact.text for fact in left.facts(None)] == [ANTWERP, LEEDS]
    assert not tells(left, "Bolt", "dog") and tells(made, "Bolt")
    assert [note.text for note in after.notes] == [ANTWERP, LEEDS]
    assert "Bolt" not in after.sources[0].text and "Antwerp" in after.sources[0].text
    kept = [x.prompt for x in before.lessons if ids(made)[BOLT] not in x.facts]
    retold = [x for x in after.lessons if x.kind == "overview"]
    assert [x.prompt for x in after.lessons if x.kind != "overview"] == kept
    assert retold and all(
        WORDS.decode(x.answer).split()[:1] == WORDS.decode(retold[0].answer).split()[:1] for x in retold
    )
    assert 0 < len(after.gate.keys) < len(before.gate.keys)
    assert any(
        not torch.equal(part[name], before.weights[path][name]) for path, part in after.weights.items() for name in part
    )
    assert model.rollback_memory() is made


def test_the_last_fact_of_an_entry_goes_with_it(model, made):
    left = forget(model, *ids(made).values())
    assert left.entries == () and left.report.steps == 0 and left.report.accepted


def test_other_entries_stay_bit_for_bit(model, made, tmp_path):
    both = model.add_fact(PANDA, "2026-05-01", config=RECIPE, work_dir=tmp_path, **SETTINGS)
    assert both.report.accepted and len(both.entries) == 2
    fact = both.entries[1].facts[0]
    assert (fact.text, fact.said_by, fact.said_at, fact.messages) == (PANDA, "user", "2026-05-01", ())
    assert fact.provenance == "added" and both.entries[1].sources[0].kind == "added"
    assert not [x for x in both.entries[1].lessons if x.kind == "overview"], "it is not all that was told"
    both.save(tmp_path / "saved")
    assert Memory.load(tmp_path / "saved").facts(None) == both.facts(None)
    left = forget(model, fact.id)
    assert digests(left) == digests(dataclasses.replace(both, entries=both.entries[:1]))


def test_a_corrected_fact_keeps_its_id_and_nothing_else(model, made):
    old = ids(made)[BOLT]
    right = model.correct_fact(old, PANDA, date="2026-05-01", config=RECIPE, **SETTINGS)
    assert right.report.accepted and model.memory is right
    new = next(fact for fact in right.facts() if fact.text == PANDA)
    stub = next(fact for fact in right.facts("superseded"))
    assert (stub.id, stub.text, stub.superseded_by) == (old, "", new.id) and "(deleted)" in str(stub)
    assert not tells(right, "Bolt") and tells(right, "Panda")
    assert model.rollback_memory() is made
    assert without([stub], {new.id: new}) == (), "nothing of it can be current again"


def test_what_a_corrected_fact_was_asked_is_asked_again_unless_it_names_it(made, monkeypatch):
    work = Forgetting(speaker(), WORDS, made, (ids(made)[BOLT],), RECIPE, CONTROL, PROMPTS, PANDA)
    questions = [question for question, _ in work.asked_before()]
    assert questions and not any("Bolt" in question for question in questions)
    old = dataclasses.replace(made.entries[0].facts[1], status="superseded", superseded_by=ids(made)[BOLT])
    facts = (made.entries[0].facts[0], old, made.entries[0].facts[2])
    changed = dataclasses.replace(made, entries=(dataclasses.replace(made.entries[0], facts=facts),))
    for instead, status in ((PANDA, "superseded"), ("", "current")):
        work = Forgetting(speaker(), WORDS, changed, (ids(made)[BOLT],), RECIPE, CONTROL, PROMPTS, instead)
        monkeypatch.setattr(work, "_trained", lambda entry, *lessons: entry.weights)
        assert next(fact for fact in work.distilled().facts(None) if fact.id == old.id).status == status


def test_a_correction_is_made_whole_or_not_at_all(model, made):
    config = dataclasses.replace(RECIPE, min_recall=1.0)
    refused = model.correct_fact(ids(made)[BOLT], PANDA, config=config, **SETTINGS)
    assert not refused.report.accepted and "min_recall" in refused.report.reason
    assert model.memory is made and digests(refused) == digests(made)


def test_a_fact_that_is_answered_all_the_same_is_refused_and_the_version_before_stays(model, made, monkeypatch):
    monkeypatch.setattr(
        ForgottenVerification,
        "_answers",
        lambda self, writer, prompts: [BOLT if writer.forwarded["memories"].entries else "Otto"] * len(prompts),
    )
    refused = forget(model, ids(made)[BOLT])
    assert not refused.report.accepted and refused.report.still_answered
    assert "still answered" in refused.report.reason and made.names()[0] in refused.report.reason
    assert model.memory is made


def test_what_the_base_knows_by_itself_was_not_told(model, made, monkeypatch):
    monkeypatch.setattr(ForgottenVerification, "_answers", lambda self, writer, prompts: [BOLT] * len(prompts))
    assert forget(model, ids(made)[BOLT]).report.still_answered == 0


def test_other_facts_that_are_lost_stay_as_words_and_too_many_are_refused(model, made, monkeypatch):
    def answers(self, writer, prompts):
        before = writer.forwarded.get("memories") is made
        return [f"{ANTWERP} {LEEDS}" if before else "Otto"] * len(prompts)

    monkeypatch.setattr(ForgottenVerification, "_answers", answers)
    refused = forget(model, ids(made)[BOLT])
    assert not refused.report.accepted and refused.report.lost == 2
    assert {fact.text for fact in refused.unlearned()} == {ANTWERP, LEEDS}


def test_an_entry_of_an_earlier_version_is_to_be_forgotten_as_a_whole(model, made):
    entry = dataclasses.replace(
        made.entries[0], lessons=tuple(dataclasses.replace(x, facts=None) for x in made.entries[0].lessons)
    )
    model.load_memory(dataclasses.replace(made, entries=(entry,)))
    with pytest.raises(ConfigError, match=r"earlier version.*forget_memory"):
        forget(model, ids(made)[BOLT])


def test_a_memory_alone_is_changed_by_the_model_that_is_given(made, monkeypatch):
    monkeypatch.setattr(Studying, "study", study)
    model = speaker()
    left = made.forget_fact(ids(made)[BOLT], model, config=RECIPE, **SETTINGS)
    assert [fact.text for fact in left.facts()] == [ANTWERP, LEEDS] and model.memory is None


def everything(directory):
    """Every byte of every file."""
    return b"".join(path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file())


def forms(text):
    """A sentence as a file may hold it: text, and token ids as lessons and weights are stored."""
    tokens = WORDS(text, add_special_tokens=False).input_ids
    return [text.encode(), *(np.array(tokens, dtype).tobytes() for dtype in ("<i4", "<i8", "<u2"))]


@pytest.fixture
def chat(model, made, tmp_path):
    """A session that remembers the talk, and has exchanges that are still words."""
    MemoryStore(tmp_path / STORE).save(made)
    session = ChatSession(model, WORDS, tmp_path, config=RECIPE)
    for asked, answered in (("Bolt has a key .", "what key ?"), ("Otto plays chess .", "who is Otto ?")):
        session.note({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    return session


def test_a_purged_fact_is_in_no_file_of_the_store(chat, made, tmp_path):
    before = everything(tmp_path)
    assert all(any(form in before for form in forms(text)[:2]) for text in (BOLT, ANTWERP))
    assert forms(BOLT)[1] in before, "its lessons are there as token ids"
    left = Left.of(made, [ids(made)[BOLT]], Fact(BOLT, "what is my dog called ?", "Bolt", 0), WORDS)
    found = " ".join(left.found(tmp_path))
    assert all(where in found for where in ("text in", "value in turns.json", "ids in", "lessons of"))
    report = chat.forget_fact(ids(made)[BOLT], purge=True)
    assert report.accepted and report is chat.last_report
    after = everything(tmp_path)
    assert not any(form in after for form in forms(BOLT)) and b"Bolt" not in after and left.found(tmp_path) == []
    assert not tells(chat.memory, "Bolt")
    assert ANTWERP.encode() in after and forms(ANTWERP)[1] in after
    assert [message["content"] for message in chat.messages] == ["Otto plays chess .", "who is Otto ?"]
    assert chat.store.versions() == [2]
    again = ChatSession(chat.model, WORDS, tmp_path)
    assert [fact.text for fact in again.memory.facts(None)] == [ANTWERP, LEEDS]


def test_a_version_that_is_not_purged_can_be_gone_back_to(chat, made, tmp_path):
    chat.forget_fact(ids(made)[BOLT])
    assert b"Bolt" in everything(tmp_path)
    chat.rollback()
    assert [fact.text for fact in chat.memory.facts()] == [BOLT, ANTWERP, LEEDS]


def test_a_refused_deletion_leaves_the_store_as_it_was(chat, made, tmp_path, monkeypatch):
    monkeypatch.setattr(ForgottenVerification, "decided", lambda self, asked: (False, "for the test."))
    before = everything(tmp_path)
    assert chat.forget_fact(ids(made)[BOLT], purge=True).reason == "for the test."
    assert everything(tmp_path) == before and len(chat.messages) == 4


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: model.forget_fact("nobody", tokenizer=WORDS), ConfigError, "No fact has the id 'nobody'"),
        (lambda model: model.forget_fact("x", tokeniser=WORDS), ConfigError, "no \\['tokeniser'\\].*tokenizer"),
        (lambda model: model.add_fact(" ", tokenizer=WORDS), InputError, "expected a sentence"),
        (lambda model: model.correct_fact("x", "", tokenizer=WORDS), InputError, "expected a sentence"),
        (lambda model: model.add_fact(BOLT, "soon", tokenizer=WORDS), InputError, "date is 'soon'"),
        (lambda model: speaker().forget_fact("x", tokenizer=WORDS), ConfigError, "No memory is loaded"),
    ],
)
def test_what_cannot_be_done_says_so(model, made, call, error, words):
    with pytest.raises(error, match=words):
        call(model)
    assert model.memory is made


def test_a_document_has_no_facts_to_review(model):
    with pytest.raises(InputError, match="a document has none"):
        model.consolidate("the museum is in Leeds .", review=lambda facts: facts, **SETTINGS)


def test_a_conversation_of_which_nothing_may_be_kept_is_not_kept(model, made, tmp_path, monkeypatch):
    monkeypatch.setattr(Studying, "study", STUDY)
    seen = []
    refused = model.consolidate(
        TALK, config=RECIPE, work_dir=tmp_path, policy=lambda fact: "Bolt" not in fact.text,
        review=lambda facts: seen.extend(facts) or [], **SETTINGS,
    )  # fmt: skip
    assert not refused.report.accepted and "were refused" in refused.report.reason and refused.report.refused >= 3
    assert model.memory is made and seen and not any("Bolt" in fact.text for fact in seen)
