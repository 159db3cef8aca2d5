"""A server's users: a memory for each, made while they are silent, and nothing of it for anybody else."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
from remembered import memory as remembered
from served import HELLO, ask, client, most_together, quick, said, served, until, users
from test_agent import CONFIG
from words import OTHER_STORY, STORY, tokenizer

from ttt_retrofit import ChatSession, InputError
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.directories import directory_name, erase_stored
from ttt_retrofit.serving.turns import turns
from ttt_retrofit.serving.user import SEEN, User


@pytest.fixture(scope="module")
def model():
    return quick()


@pytest.mark.slow
def test_a_user_s_words_become_memory_when_they_fall_silent(model, tmp_path):
    with served(tmp_path, model, idle=0.3) as (url, service):
        api = client(url)
        before = ask(api.chat.completions, user="ines").choices[0].message.content
        ask(api.chat.completions, said(STORY), user="ines")
        until(lambda: service.users.get("ines").waiting == 0)
        state = httpx.get(f"{url}/v1/memories/ines").json()
        assert state["last_report"]["accepted"] and len(state["entries"]) >= 1 and state["consolidating"] is None
        memory = service.users.get("ines").memory
        answer = ask(api.chat.completions, user="ines").choices[0].message.content
        assert answer not in ("", before)
        # Nobody else hears it.
        assert ask(api.chat.completions, user="otto").choices[0].message.content == before
        assert ask(api.chat.completions).choices[0].message.content == before
    with served(tmp_path, model) as (url, service):  # and it is there after a restart
        assert service.users.get("ines").memory.names() == memory.names()


@pytest.mark.slow
def test_others_are_answered_while_a_memory_is_made(model, tmp_path):
    with served(tmp_path, model, idle=0.1, config=dataclasses.replace(CONFIG, epochs=3.0)) as (url, service):
        chat = client(url).chat.completions
        otto = service.users.get("otto").session
        otto.memory, otto._rejected = remembered(model, 1, 2), 1000  # his own words stay as they are
        alone = ask(chat, user="otto", max_tokens=24).choices[0].message.content
        ask(chat, said(STORY), user="ines")
        ines = service.users.get("ines")
        until(lambda: ines.consolidating() or ines.memory)
        while ines.memory is None:
            assert ask(chat, user="otto", max_tokens=24).choices[0].message.content == alone


@pytest.mark.slow
def test_users_in_parallel_are_answered_as_each_is_alone(tmp_path):
    """Greedy answers of six users with memories of their own and one without, from threads and in batches.

    In float64: a model of random weights has near ties, which float32 decides by the shape of the batch.
    """
    model = quick().double()
    with served(tmp_path, model, most=64) as (url, service):
        chat, names = client(url).chat.completions, [f"user {number}" for number in range(6)]
        for number, name in enumerate(names):
            service.users.get(name).session.memory = remembered(model, *range(number, 2 * number + 1))
        asked = [said("where is Marek ?"), said("who has the old key under window ?", "Otto", "what is blue ?")]
        cases = [(name, messages) for messages in asked for name in [*names, None]]

        def answer(case):
            name, messages = case
            settings = {} if name is None else {"user": name}
            return ask(chat, messages, max_tokens=12, **settings).choices[0].message.content

        alone = [answer(case) for case in cases]
        assert len(set(alone[:7])) > 3  # the memories matter
        batches = most_together(service)
        for _ in range(2):
            with ThreadPoolExecutor(8) as pool:
                assert list(pool.map(answer, cases)) == alone
        assert max(batches) > 1


def test_a_conversation_that_is_sent_again_says_nothing_new(model, tmp_path):
    known = users(model, tmp_path)
    user = known.get("ines")

    def record(*texts):
        known.record("ines", user, [{"role": "system", "content": "Be kind."}, *said(*texts[:-1])], texts[-1])
        return [message["content"] for message in user.session.messages]

    assert record("hello", "hi") == ["hello", "hi"]
    assert record("hello", "hi", "my name is Ines", "noted") == ["hello", "hi", "my name is Ines", "noted"]
    everything = record("hello", "hi", "my name is Ines", "noted", "bye", "bye")
    assert len(everything) == 6
    assert record("hello", "hi", "my name is Ines", "noted", "bye", "so long") == everything  # an answer once more
    assert record("my name is Ines", "noted", "bye", "bye") == everything  # the beginning was left out
    assert record("hello", "hi", "my name is Runa", "noted")[6:] == ["my name is Runa", "noted"]  # changed
    assert record("hello", "good day", "yes", "fine")[8:] == ["yes", "fine"]  # another conversation
    known.close()
    again = users(model, tmp_path)
    user, known = again.get("ines"), again
    assert len(record("hello", "good day", "yes", "fine")) == 10
    assert record("hello", "hi", "my name is Ines", "noted")[10:] == ["my name is Ines", "noted"]  # said anew


@pytest.mark.parametrize("whole", [True, False], ids=["all of it is sent", "its end is sent"])
def test_a_fact_that_is_changed_back_is_recorded(whole, model, tmp_path):
    known = users(model, tmp_path)
    user, sent = known.get("ines"), []
    asked = ["the code is 7719", "the code is nine", "the code is 7719", "bye", "the code is nine", "bye"]
    for number, text in enumerate(asked):
        sent = [*(sent if whole else sent[-1:] * (number % 2)), *said(text)]
        for _ in range(2):  # an answer that is written anew says nothing
            known.record("ines", user, sent, "ok")
        sent = [*sent, {"role": "assistant", "content": "ok"}]
        found = [message["content"] for message in user.session.messages]
        assert found == [text for question in asked[: number + 1] for text in (question, "ok")]
    known.close()
    again = users(model, tmp_path)
    again.record("ines", again.get("ines"), sent[:-1], "ok")
    assert again.get("ines").waiting == 2 * len(asked)


def test_facts_that_were_changed_back_elsewhere_are_recorded_in_their_order(model, tmp_path):
    known = users(model, tmp_path)
    user = known.get("ines")
    known.record("ines", user, said("a b", "ok", "c d"), "ok")
    known.record("ines", user, said("a b", "ok", "c d", "ok", "a b", "ok", "c d", "ok", "bye"), "ok")
    assert [m["content"] for m in user.session.messages if m["role"] == "user"] == ["a b", "c d", "a b", "c d", "bye"]


def test_an_application_in_front_may_name_the_user_in_a_header(model, tmp_path):
    header = "X-OpenWebUI-User-Id"
    with served(tmp_path / "with", model, user_header=header) as (url, service):
        chat = client(url).chat.completions
        ask(chat, extra_headers={header: "3f0c-ines"})
        assert service.users.get("3f0c-ines").waiting == 2
        ask(chat, user="otto")
        assert service.users.get("otto").waiting == 2, "without the header the request names the user"
        with pytest.raises(openai.BadRequestError, match="user='otto', and the header says '3f0c-ines'"):
            ask(chat, user="otto", extra_headers={header: "3f0c-ines"})
        with pytest.raises(openai.BadRequestError, match="is no user id"):
            ask(chat, extra_headers={header: ".."})
    with served(tmp_path / "without", model) as (url, service):
        ask(client(url).chat.completions, extra_headers={header: "3f0c-ines"})
        assert service.users.stored() == [], "nobody asked for it"


def test_turns_are_questions_with_what_was_answered_before():
    conversation = [
        {"role": "system", "content": "s"}, {"role": "assistant", "content": "welcome"},
        {"role": "user", "content": "a"}, {"role": "user", "content": "b"}, {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]  # fmt: skip
    found = turns(conversation)
    assert [(t.previous_answer, t.question, t.answer) for t in found] == [("welcome", "a\n\nb", "c"), ("c", "d", "")]


@pytest.mark.slow
def test_what_was_rejected_waits_for_more_words(model, tmp_path):
    config = dataclasses.replace(CONFIG, min_recall=1.0)
    with served(tmp_path, model, idle=0.1, config=config) as (url, service):
        ask(client(url).chat.completions, said(STORY), user="ines")
        user = service.users.get("ines")
        until(lambda: user.session.last_report is not None)
        report = user.session.last_report
        assert not report.accepted and user.waiting == 2 and user.memory is None
        assert not user.begin() and user.session.last_report is report


def test_a_user_is_erased_while_a_memory_is_made(model, tmp_path):
    with served(tmp_path, model, idle=0.1, config=dataclasses.replace(CONFIG, epochs=50.0)) as (url, service):
        chat = client(url).chat.completions
        ask(chat, said(STORY), user="../ines")
        user = service.users.get("../ines")
        until(user.consolidating)
        path = f"{url}/v1/memories/..%2Fines"
        assert httpx.get(path).json()["consolidating"]["stage"]
        assert httpx.delete(path).json() == {"id": "../ines", "object": "memory.deleted", "deleted": True}
        assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []
        user.record(said("late"), "answer")  # of a request that was being answered
        assert httpx.get(path).status_code == 404
        assert ask(chat, user="../ines").choices
        assert service.users.get("../ines") is not user


def test_a_damaged_user_is_an_error_for_them_alone_and_can_be_erased(model, tmp_path):
    with served(tmp_path, model) as (url, _):
        chat = client(url).chat.completions
        ask(chat, user="ines")
    (tmp_path / directory_name("ines") / "turns.json").write_text("{")
    with served(tmp_path, model, idle=0.0) as (url, _):
        chat = client(url).chat.completions
        with pytest.raises(openai.InternalServerError, match="log says why"):
            ask(chat, user="ines")
        assert ask(chat, user="otto").choices
        assert httpx.delete(f"{url}/v1/memories/ines").status_code == 200
        assert ask(chat, user="ines").choices


def test_a_store_is_erased_from_outside_only_while_no_server_runs(model, tmp_path):
    known = users(model, tmp_path)
    known.record("ines", known.get("ines"), HELLO, "there")
    assert (tmp_path / directory_name("ines")).stat().st_mode & 0o077 == 0
    with pytest.raises(InputError, match="A server is using"):
        erase_stored(tmp_path, "ines")
    with pytest.raises(InputError, match="A server is using"):
        users(model, tmp_path)
    known.close()
    assert erase_stored(tmp_path, "ines") and not erase_stored(tmp_path, "ines")
    with pytest.raises(InputError, match="no directory"):
        erase_stored(tmp_path / "nowhere", "ines")


@pytest.mark.slow
def test_what_waited_when_the_server_stopped_becomes_memory_later(model, tmp_path):
    with served(tmp_path, model) as (url, _):
        ask(client(url).chat.completions, said(OTHER_STORY), user="ines")
    with served(tmp_path, model, idle=0.1):
        store = MemoryStore(tmp_path / directory_name("ines") / "memory")
        until(lambda: store.versions() == [1])


def test_words_that_were_kept_before_a_kill_are_noted_when_the_user_is_next_seen(tmp_path, model):
    """The words are written first, and that they were, afterwards; a question may stand there for the second time."""
    asked = {"role": "user", "content": "where is Marek ?"}
    first = [asked]
    talk = [*first, {"role": "assistant", "content": "Antwerp"}, {"role": "user", "content": "who has the key ?"}]
    again = [*talk, {"role": "assistant", "content": "Otto"}, asked]

    def user():
        return User(ChatSession(model, tokenizer(), tmp_path / "user", keep_turns=0))

    user().record(talk, "Otto")
    before = (tmp_path / "user" / SEEN).read_bytes()
    user().record(again, "Leeds")
    (tmp_path / "user" / SEEN).write_bytes(before)  # as a kill between the two writes leaves it
    known = user()
    said = [message["content"] for message in known.session.messages]
    known.record(again, "Leeds")
    assert [message["content"] for message in known.session.messages] == said
