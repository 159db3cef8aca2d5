"""The messages of a chat are kept with the day they were said, which no chat template sees."""

import pytest
from converted import speaker
from words import tokenizer

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.chat.days import with_days, without_days
from ttt_retrofit.chat.directory import TURNS
from ttt_retrofit.util.files import write_list

EARLIER = [{"role": "user", "content": "where is Marek ?"}, {"role": "assistant", "content": "Antwerp"}]


def test_a_turn_has_the_day_on_which_it_was_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("ttt_retrofit.chat.session.today", lambda: "2026-03-09")
    seen = []

    def asked(tokenizer, messages, **settings):
        seen.extend(messages)
        return tokenizer("where ?").input_ids

    monkeypatch.setattr("ttt_retrofit.chat.session.prompt_ids", asked)
    chat = ChatSession(speaker(), tokenizer(), tmp_path, system="Be brief")
    chat.send("where is Marek ?", max_new_tokens=2)
    assert [message["date"] for message in chat.messages] == ["2026-03-09"] * 2
    assert ChatSession(chat.model, tokenizer(), tmp_path).messages == chat.messages
    assert all(set(message) == {"role", "content"} for message in seen) and len(seen) == 2


def test_turns_that_an_earlier_version_stored_have_no_day_and_go_on(tmp_path):
    write_list(tmp_path / TURNS, "messages", EARLIER)
    chat = ChatSession(speaker(), tokenizer(), tmp_path)
    chat.note({"role": "user", "content": "who ?", "timestamp": "2026-03-10T08:00:00"})
    assert chat.messages == [*EARLIER, {"role": "user", "content": "who ?", "date": "2026-03-10"}]
    assert ChatSession(chat.model, tokenizer(), tmp_path).messages == chat.messages


def test_a_noted_message_has_its_own_day_or_that_of_the_one_before(monkeypatch):
    said = [
        {"role": "user", "content": "a", "date": "2025-01-02"},
        {"role": "system", "content": "b", "timestamp": "2025-01-03"},
        {"role": "assistant", "content": "c"},
    ]
    kept = with_days(said)
    assert [(message["content"], message["date"]) for message in kept] == [("a", "2025-01-02"), ("c", "2025-01-03")]
    assert without_days(kept) == [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]
    with pytest.raises(InputError, match=r"date of chat message 1 is 'soon'"):
        with_days([said[0], {**said[2], "date": "soon"}])
    with pytest.raises(InputError, match="Chat message 1 is"):
        with_days([said[0], {"role": "user"}])
