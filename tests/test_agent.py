"""`ChatSession`: turns become memory in idle time, and nothing is lost on the way."""

import dataclasses
import shutil

import pytest
import torch
from converted import converted, speaker
from remembered import digests
from transformers.generation.streamers import BaseStreamer
from words import OTHER_STORY, QUESTIONS, STORY, tokenizer

from ttt_retrofit import ChatSession, CheckpointError, ConsolidationConfig, InputError, MemoryConfig
from ttt_retrofit.chat.days import without_days

pytestmark = pytest.mark.slow

CONFIG = ConsolidationConfig(
    memory=MemoryConfig(rank=2, layers=(2, 3)), answer_tokens=12, min_recall=0.0, max_drift=10.0, max_changed=1.0,
    wordings=1, details=40, epochs=0.1,
)  # fmt: skip
SETTINGS = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture
def model():
    return speaker()


def session(model, directory, config=CONFIG, **changes):
    return ChatSession(model, tokenizer(), directory, keep_turns=1, config=config, questions=QUESTIONS, **changes)


def test_older_turns_become_memory_and_their_words_and_keys_go(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    assert chat.idle(1) is None  # the last turn stays
    chat.send("where is Marek ?", **SETTINGS)
    before = chat._cache.nbytes
    report = chat.idle(120)
    assert report.accepted and chat.last_report is report
    assert chat.messages[0]["content"] == "where is Marek ?"
    assert chat._cache is None and before > 0
    assert chat.memory.names() and model.memory is None
    chat.send("who has the key ?", **SETTINGS)
    assert len(chat.messages) == 4


class Interrupting(BaseStreamer):
    """Ctrl-C while an answer is written."""

    def put(self, value):
        if value.numel() == 1:
            raise KeyboardInterrupt

    def end(self):
        pass


def test_an_interrupted_answer_leaves_the_session_as_it_was(model, tmp_path):
    one, other = session(model, tmp_path / "one"), session(model, tmp_path / "other")
    for chat in (one, other):
        chat.send("where is Marek ?", **SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        one.send("who has the key ?", streamer=Interrupting(), **SETTINGS)
    assert one.messages == other.messages
    assert one.send("what is blue ?", **SETTINGS) == other.send("what is blue ?", **SETTINGS)


def test_a_rejected_consolidation_keeps_every_word_and_is_not_tried_again(model, tmp_path):
    chat = session(model, tmp_path, dataclasses.replace(CONFIG, min_recall=1.0))
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    report = chat.idle(120)
    assert not report.accepted
    assert chat.messages[0]["content"] == STORY and chat.memory is None
    assert chat.idle(120) is None
    chat.send("who has the key ?", **SETTINGS)


def test_a_session_goes_on_after_a_restart(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    assert chat.idle(120).accepted
    again = session(model, shutil.copytree(tmp_path, tmp_path.with_name("copy")))
    assert again.messages == chat.messages
    assert digests(again.memory) == digests(chat.memory)
    assert again.send("who ?", **SETTINGS) == chat.send("who ?", **SETTINGS)


def test_what_another_session_wrote_is_never_written_over(model, tmp_path):
    one, other = session(model, tmp_path), session(model, tmp_path)
    one.send(STORY, **SETTINGS)
    one.send("where is Marek ?", **SETTINGS)
    kept = (tmp_path / "turns.json").read_bytes()
    calls = (
        lambda: other.send("who ?", **SETTINGS),
        lambda: other.note({"role": "user", "content": "who ?"}),
        other.rollback,
    )
    for call in calls:
        with pytest.raises(InputError, match="another session"):
            call()
    assert (tmp_path / "turns.json").read_bytes() == kept and other.messages == []
    assert one.idle(120).accepted  # while nobody else writes
    late = session(model, tmp_path)
    late.send(STORY, **SETTINGS)
    late.send("who has the key ?", **SETTINGS)
    one.store.rollback()
    with pytest.raises(InputError, match="another session"):
        late.idle(120)
    assert late.store.current() is None


def test_what_is_being_made_goes_with_what_it_builds_on(model, tmp_path):
    chat = session(model, tmp_path, dataclasses.replace(CONFIG, epochs=1.0))
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    while chat.idle(1) is None:
        pass
    (name,) = chat.memory.names()
    chat.send(OTHER_STORY, **SETTINGS)
    chat.send("who is old ?", **SETTINGS)
    assert chat.idle(0.01) is None and chat.progress is not None
    chat.forget(name)
    assert chat.progress is None and not (tmp_path / "work").exists()
    while chat.idle(1) is None:
        pass
    assert name not in chat.memory.names() and len(chat.memory.names()) == 1


def test_questions_of_work_that_was_given_up_do_not_stay(model, tmp_path, monkeypatch):
    monkeypatch.setattr("ttt_retrofit.consolidation.work_directory.SAVE_EVERY", 0.0)
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    while not chat.idle(0.05) and chat.progress.stage != "train":
        pass
    chat.close()
    (given_up,) = (tmp_path / "work").iterdir()
    chat.send("who has the key ?", **SETTINGS)
    while chat.idle(1) is None:
        pass
    assert chat.memory is not None and not given_up.exists()


def test_a_job_that_failed_does_not_keep_anything_from_being_erased(model, tmp_path, monkeypatch):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)

    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("ttt_retrofit.consolidation.consolidate.Consolidation.run", full)
    chat.begin()
    chat._job.wait()
    chat.erase()
    assert chat.messages == [] and session(model, tmp_path).messages == []


def test_idle_time_that_is_too_short_is_gone_on_with_the_next_time(model, tmp_path):
    chat = session(model, tmp_path, dataclasses.replace(CONFIG, epochs=1.0))
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    assert chat.progress is None
    assert chat.idle(0.01) is None
    assert chat.progress is not None and len(chat.messages) == 4
    chat.send("who has the key ?", **SETTINGS)
    for _ in range(600):
        if chat.idle(0.5) is not None:
            break
    assert chat.last_report.accepted
    # What was said while it worked is not lost.
    assert [message["content"] for message in chat.messages if message["role"] == "user"] == [
        "where is Marek ?", "who has the key ?",
    ]  # fmt: skip


def test_turns_are_answered_from_the_cache_as_from_the_whole_prompt(model, tmp_path):
    model.configure_ttt(learn_from="none")
    chat, fresh = session(model, tmp_path / "a"), session(model, tmp_path / "b")
    for said in ("where is Marek ?", "who has the key ?", "what is blue ?"):
        fresh._cache = None
        assert chat.send(said, **SETTINGS) == fresh.send(said, **SETTINGS)


def test_beams_answer_as_from_the_whole_prompt_and_leave_no_keys(model, tmp_path):
    model.configure_ttt(learn_from="none")
    chat, fresh = session(model, tmp_path / "a"), session(model, tmp_path / "b")
    for said in ("where is Marek ?", "who has the key ?", "what is blue ?"):
        fresh._cache = None
        beams = {**SETTINGS, "num_beams": 3, "length_penalty": -1.0, "return_dict_in_generate": True}
        assert chat.send(said, **beams) == fresh.send(said, **beams) != ""
    assert chat.send("who ?", **SETTINGS)


# Like Gemma's: no system prompt, and turns of user and assistant only.
STRICT = (
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ message['role'] }} {{ message['content'] }} </s> "
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)


def test_templates_that_know_only_turns_of_two_are_served_too(model, tmp_path):
    strict = tokenizer()
    strict.chat_template = STRICT
    chat = ChatSession(model, strict, tmp_path, system="chess .", keep_turns=0, config=CONFIG, questions=QUESTIONS)
    chat.note({"role": "assistant", "content": "Otto plays chess ."}, {"role": "user", "content": STORY})
    assert chat.send("where is Marek ?", **SETTINGS)
    chat.note({"role": "user", "content": STORY})
    assert chat.idle(120).accepted


def test_what_has_no_words_is_not_noted_and_what_is_no_message_is_refused(model, tmp_path):
    chat = session(model, tmp_path)
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look"}}]}
    chat.note({"role": "user", "content": STORY}, call, {"role": "assistant", "content": "  "})
    assert without_days(chat.messages) == [{"role": "user", "content": STORY}]
    with pytest.raises(InputError, match="Chat message 0 is"):
        chat.note({"role": "user"})
    assert chat.messages == session(model, tmp_path).messages


def test_a_failure_in_the_background_keeps_no_message_from_being_answered(model, tmp_path, monkeypatch):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("ttt_retrofit.consolidation.consolidate.Consolidation.run", fails)
        chat.begin()
        chat._job.wait()
    assert chat.send("who has the key ?", **SETTINGS)
    with pytest.raises(RuntimeError, match="no"):
        chat.idle(120)
    with monkeypatch.context() as patch:
        patch.setattr(chat.model, "consolidate", fails)
        chat.send("who ?", **SETTINGS)
        with pytest.raises(RuntimeError, match="no"):
            chat.idle(120)
        assert chat.idle(120) is None  # not again before more is said


def fails(*args, **kwargs):
    raise RuntimeError("no")


def test_a_memory_that_could_not_be_written_is_written_the_next_time(model, tmp_path, monkeypatch):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr("ttt_retrofit.memory.store.MemoryStore.save", fails)
        with pytest.raises(RuntimeError, match="no"):
            chat.idle(120)
    assert chat.memory is None and len(chat.messages) == 4
    steps = []
    monkeypatch.setattr("ttt_retrofit.consolidation.consolidate.Consolidation.run", steps.append)
    assert chat.idle(120).accepted and not steps and len(chat.messages) == 2


def test_two_users_of_one_model_never_share_a_memory(model, tmp_path):
    first, second = session(model, tmp_path / "a"), session(model, tmp_path / "b")
    alone = session(model, tmp_path / "c")
    for chat, story in ((first, STORY), (second, OTHER_STORY), (alone, OTHER_STORY)):
        chat.send(story, **SETTINGS)
        chat.send("where is Marek ?", **SETTINGS)
    assert first.idle(120).accepted
    assert second.send("who is old ?", **SETTINGS) == alone.send("who is old ?", **SETTINGS)


def test_forgetting_and_erasing(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    chat.idle(120)
    chat.forget(chat.memory.names()[0])
    assert chat.memory.names() == []
    chat.rollback()
    assert len(chat.memory.names()) == 1
    (tmp_path / "work" / "cut off").mkdir(parents=True)
    unfinished = tmp_path / ".turns.json.1.tmp", tmp_path / "memory" / ".current.json.1.tmp"
    for path in unfinished:
        path.write_text(STORY)  # by a write that was killed
    chat.erase()
    assert not any(path.exists() for path in unfinished) and chat.last_report is None
    assert chat.memory is None and chat.messages == [] and not (tmp_path / "work").exists()
    assert session(model, tmp_path).messages == []


def test_bad_input_is_refused(model, tmp_path):
    chat = session(model, tmp_path)
    with pytest.raises(InputError, match="empty message"):
        chat.send("  ")
    with pytest.raises(InputError, match="no chat template"):
        ChatSession(model, tokenizer(chat=False), tmp_path)
    (tmp_path / "turns.json").write_text('{"format": 99, "messages": []}')
    with pytest.raises(CheckpointError, match="format 99, expected 2"):
        session(model, tmp_path)
    for damage in (b"{", b'{"format": 1, "messages": ["\xff"]}'):
        (tmp_path / "turns.json").write_bytes(damage)
        with pytest.raises(CheckpointError, match="damaged"):
            session(model, tmp_path)


def test_a_store_of_another_base_is_refused(model, tmp_path):
    chat = session(model, tmp_path)
    chat.send(STORY, **SETTINGS)
    chat.send("where is Marek ?", **SETTINGS)
    assert chat.idle(120).accepted
    torch.manual_seed(0)
    with pytest.raises(CheckpointError, match="made for"):
        session(converted("qwen2"), tmp_path)
