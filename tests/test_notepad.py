"""The notepad: sentences kept word for word beside a memory, bounded, saved and forgotten with it."""

import dataclasses

import pytest
import torch
from consolidated import CONFIG, consolidate
from converted import converted, speaker
from remembered import digests, memory
from test_agent import CONFIG as CHAT_CONFIG
from test_agent import SETTINGS, session
from words import OTHER_STORY, QUESTIONS, STORY, tokenizer

from ttt_retrofit import CheckpointError, ConfigError, Memory
from ttt_retrofit.consolidation.note_selection import rarity, scored_notes, select_notes, within_budget
from ttt_retrofit.memory.notes import Note, pack_notes, unpack_notes

NOTES = (Note("The code is 7719.", 2.5, 9), Note("Thé key: “old” 🔑.", 1.25, 8))


@pytest.fixture
def model():
    return speaker()


def noted(*notes):
    """A memory of two entries; the first has the notes."""
    made = memory(converted(), 1, 2)
    return dataclasses.replace(made, entries=(dataclasses.replace(made.entries[0], notes=notes), made.entries[1]))


def test_notes_come_back_as_they_were_whatever_their_script():
    assert unpack_notes(pack_notes(NOTES)) == NOTES
    assert pack_notes(()) == {} and unpack_notes({}) == ()


def test_they_are_saved_and_checksummed_with_the_memory(tmp_path):
    noted(*NOTES).save(tmp_path)
    assert Memory.load(tmp_path).notes == NOTES
    assert b"7719" not in (tmp_path / "memory.json").read_bytes()
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.write_bytes(tensors.read_bytes().replace(b"7719", b"7718"))
    with pytest.raises(CheckpointError, match="altered"):
        Memory.load(tmp_path)


def test_a_note_that_changed_shows_in_the_digest_and_forgetting_the_entry_forgets_it():
    with_notes, without = noted(*NOTES), noted()
    assert digests(with_notes) != digests(without)
    assert with_notes.nbytes > without.nbytes
    assert with_notes.forget("entry1").notes == ()


def test_what_a_tokenizer_has_no_words_for_is_worth_most():
    # Tokens of a sentence as a tokenizer of common words would have them.
    assert rarity("The magic number is 4281907.", 12) > rarity("The magic number is seven.", 6)
    assert rarity("Zxqv.", 5) < rarity("The code is 9f3c-77aa-b1.", 17)  # one strange word alone is not enough


def test_the_best_notes_fit_into_the_budget_in_their_order_and_the_last_saying_counts():
    notes = [Note("a", 1.0, 5), Note("b", 3.0, 5), Note("c", 2.0, 20), Note("b", 3.0, 5), Note("d", 2.5, 5)]
    assert select_notes(notes, 10) == [3, 4]
    assert select_notes(notes, 15) == [0, 3, 4]  # c does not fit, a does
    assert select_notes(notes, 0) == []


def test_a_notepad_does_not_grow_with_the_bank():
    first, second = memory(converted(), 1, 2).entries
    first = dataclasses.replace(first, notes=(Note("a", 1.0, 6), Note("b", 3.0, 6)))
    second = dataclasses.replace(second, notes=(Note("c", 2.0, 6),))
    kept = within_budget((first, second), 12)
    assert [[note.text for note in entry.notes] for entry in kept] == [["b"], ["c"]]


@pytest.mark.slow
def test_none_is_kept_unless_it_is_asked_for(model, tmp_path):
    assert consolidate(model, directory=tmp_path).notes == ()
    with pytest.raises(ConfigError, match="notepad=-1"):
        dataclasses.replace(CONFIG, notepad=-1)


@pytest.mark.slow
def test_consolidating_again_keeps_the_notepad_within_its_budget(model, tmp_path):
    sizes = [note.tokens for note in scored_notes([STORY], tokenizer())]
    budget = max(sizes) + 40
    consolidate(model, directory=tmp_path, notepad=budget)
    made = consolidate(model, "Runa has the old code 7719. " + OTHER_STORY, directory=tmp_path, notepad=budget)
    assert made.report.accepted and len(made.entries) == 2
    assert made.notes and sum(note.tokens for note in made.notes) <= budget
    # A later consolidation without a notepad leaves what was noted alone.
    assert len(consolidate(model, "Otto plays the cello. " + STORY, directory=tmp_path).notes) > 0


def test_notes_are_read_out_after_the_system_prompt_and_before_the_rest():
    said = [{"role": "user", "content": "What is the code?"}]
    system = {"role": "system", "content": "Be brief."}
    given = noted(*NOTES).with_notes([system, *said])
    assert given[0] == system and given[-1] == said[0]
    assert "The code is 7719." in given[1]["content"] and given[2]["role"] == "assistant"
    assert noted().with_notes([system, *said]) == [system, *said]


@pytest.mark.slow
def test_a_chat_reads_its_notes_and_forgetting_takes_them_out_of_the_prompt(model, tmp_path):
    chat = session(model, tmp_path, dataclasses.replace(CHAT_CONFIG, notepad=200))
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    assert chat.idle(120).accepted
    assert chat.memory.notes
    chat.send("who has the key ?", **SETTINGS)
    first = chat.memory.notes[0].text.split()[0]
    assert first in tokenizer().decode(chat._cached_ids)
    again = session(model, tmp_path, CHAT_CONFIG)  # after a restart
    assert again.memory.notes == chat.memory.notes
    chat.forget(chat.memory.names()[0])
    assert chat.memory.notes == ()


@pytest.mark.slow
def test_the_weights_say_the_same_with_and_without_a_notepad(model, tmp_path):
    plain = consolidate(model, directory=tmp_path, questions=QUESTIONS)
    model.reset_memory()
    noting = consolidate(model, directory=tmp_path, questions=QUESTIONS, notepad=64)
    one, other = (made.entries[0].named_weights() for made in (plain, noting))
    assert all(torch.equal(one[name], other[name]) for name in one)
