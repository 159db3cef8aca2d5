"""Facts that are not memory yet stand beside those that are, and are searched, corrected and deleted like them."""

import dataclasses

import httpx
import pytest
from commands import document, run
from converted import speaker
from paged import paged
from paged import said as shown
from scripted import script
from served import said, served
from test_known_at_once import BOLT, GREYHOUND, NOW, note, read, session, texts, texts_id
from test_memory_facts import GRAZ, told

from ttt_retrofit import InputError
from ttt_retrofit.chat.directory import FACTS, TURNS
from ttt_retrofit.chat.fact_change import FactChange
from ttt_retrofit.memory.facts import history
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.changes import FactChanges
from ttt_retrofit.serving.fact_tools import FactTools
from ttt_retrofit.serving.mem0 import MemoryClient
from ttt_retrofit.serving.stored_facts import StoredFacts
from ttt_retrofit.serving.users import Users
from ttt_retrofit_cli import loading

BOSS, CHESS = "my boss is called Fernanda .", "Otto plays chess ."


@pytest.fixture(scope="module")
def model():
    return speaker()


def listed(chat, status="known"):
    return [(fact.text, fact.status) for fact in chat.facts(status)]


def test_a_sessions_facts_are_those_of_the_memory_and_those_that_wait(model, tmp_path):
    lives = dataclasses.replace(GRAZ, text="my dog is called Graz .")
    chat = session(model, tmp_path, writer=script({"Panda": NOW}, {}, changes={"Graz": "Panda", "Bolt": "Panda"}))
    chat.memory = told(model, [lives])
    chat.note(*said(BOLT))
    assert listed(chat) == [(lives.text, "current"), (BOLT, "waiting")]
    chat.note(*said(NOW))
    read(chat)
    assert listed(chat) == listed(chat, "waiting") == [(NOW, "waiting")] and listed(chat, "current") == []
    assert listed(chat, "superseded") == [(lives.text, "superseded"), (BOLT, "superseded")]
    (now,) = chat.facts()
    assert [fact.text for fact in history(chat.facts("all"), lives.id)][-1] == NOW
    assert {fact.superseded_by for fact in chat.facts("superseded")} == {now.id}
    with pytest.raises(InputError, match="status is 'old'; expected one of"):
        chat.facts("old")


def test_what_is_said_again_holds_again_and_is_there_once(model, tmp_path):
    chat = session(model, tmp_path, writer=script({"Bolt": BOLT, "Panda": NOW}, {}, changes={"Bolt": "Panda"}))
    chat.note(*said(BOLT, "good .", NOW, "well .", BOLT))
    read(chat)
    assert note(chat) == [NOW, BOLT] and chat.facts()[-1].messages == (0, 4)
    assert chat.forget_fact(texts_id(chat, BOLT)).accepted
    assert [message["content"] for message in chat.messages] == [NOW, "well ."]


def test_a_correction_keeps_the_id_and_the_other_facts_of_a_message_keep_theirs(model, tmp_path):
    writer = script({"Fernanda": BOSS, "Bolt": BOLT, "Otto": CHESS}, {}, changes={"Graz": "Bolt"})
    chat = session(model, tmp_path, writer=writer)
    chat.memory = told(model, [dataclasses.replace(GRAZ, text="my dog is called Graz .")])
    chat.note(*said(f"{BOLT} {BOSS}", "good .", CHESS))
    read(chat)
    dog, boss, otto = (texts_id(chat, text) for text in (BOLT, BOSS, CHESS))
    asked = len(writer.asked)
    assert chat.correct_fact(dog, f"{NOW} Is that right ?", date="2026-05-01").accepted
    for one in (chat, session(model, tmp_path, writer=writer)):
        one.memory = chat.memory
        assert {fact.id: fact.text for fact in one.facts("waiting")} == {
            boss: BOSS, dog: f"{NOW} Is that right ?", otto: CHESS,
        }  # fmt: skip
        assert not one.read_facts() and len(writer.asked) == asked, "what stays was read already"
        (new,) = (fact for fact in one.facts() if fact.id == dog)
        assert (new.said_at, new.provenance) == ("2026-05-01", "added")
        assert [fact.superseded_by for fact in one.facts("superseded")] == [dog], "as by the sentence before"
    chat.forget_fact(boss)
    chat.forget_fact(otto, dog)
    left = "".join(path.read_text() for path in (tmp_path / TURNS, tmp_path / FACTS))
    assert not any(word in left for word in ("Bolt", "Panda", "Otto", "Fernanda"))


def test_a_sentence_that_nobody_has_read_keeps_its_id_when_its_message_is_changed(model, tmp_path):
    chat = session(model, tmp_path)
    chat.note(*said(f"{BOLT} {BOSS}"))
    boss = texts_id(chat, BOSS)
    chat.forget_fact(texts_id(chat, BOLT))
    assert [fact.id for fact in chat.facts()] == [boss]


# ---------------------------------------------------------------------- users of a server, and of a store


def address(url, *behind):
    return "/".join([f"{url}/v1/memories/ines/facts", *behind])


def found(url, **asked):
    return {one["text"]: one for one in httpx.get(address(url), params=asked).json()["data"]}


def test_a_server_lists_searches_corrects_and_deletes_them_at_once_and_after_a_restart(model, tmp_path):
    ines = {"user_id": "ines"}
    with served(tmp_path, model) as (url, _):
        assert MemoryClient(host=url).add(f"{BOLT} {BOSS} {CHESS}", user_id="ines")
        assert list(found(url)) == [BOLT, BOSS, CHESS] and {x["status"] for x in found(url).values()} == {"waiting"}
        assert found(url, status="current") == {} and list(found(url, status="waiting", query="dog")) == [BOLT]
        dog = found(url)[BOLT]["id"]
        change = httpx.post(address(url, dog), json={"text": NOW}).json()
        assert (change["status"], change["fact"]) == ("accepted", dog)
        assert httpx.delete(address(url, found(url)[CHESS]["id"])).json()["status"] == "accepted"
        assert list(found(url)) == [BOSS, NOW]
        assert [one["text"] for one in httpx.get(address(url, dog, "history")).json()["data"]] == [NOW]
        assert httpx.delete(address(url, "nobody")).status_code == 404
    with served(tmp_path, model) as (url, _):
        assert list(found(url)) == [BOSS, NOW]
        client = MemoryClient(host=url)
        assert client.search("who is my boss ?", filters=ines)["results"][0]["memory"] == BOSS
        for one in client.get_all(filters=ines)["results"]:
            assert one["metadata"]["status"] == "waiting" and client.get(one["id"])["memory"] == one["memory"]
            client.update(one["id"], text=GREYHOUND)
            assert client.get(one["id"])["memory"] == GREYHOUND
            client.delete(one["id"])
        assert client.get_all(filters=ines)["results"] == []


def test_a_correction_that_was_asked_for_twice_is_done_once(model, tmp_path):
    users = Users(tmp_path, lambda path: session(model, path))
    users.record("ines", users.get("ines"), said(BOLT), "good .")
    user, changes = users.get("ines"), FactChanges(users)
    (fact,) = user.facts()
    change = FactChange((fact.id,), NOW)
    assert changes.request("ines", user, change, 1).fact == fact.id
    assert change.holds(user.facts("all")) and not FactChange((fact.id,)).holds(user.facts("all"))
    assert changes.request("ines", user, FactChange((fact.id,)), 1).status == "accepted" and user.facts() == []
    assert not changes.waiting and [one.status for one in changes.of("ines")] == ["accepted", "accepted"]
    users.close()


def test_a_store_is_read_without_a_model_and_its_tools_tell_them_apart(model, tmp_path):
    chat = session(model, tmp_path)
    chat.store.save(told(model, [GRAZ]))
    session(model, tmp_path).note(*said(BOLT))
    tools = FactTools(StoredFacts(tmp_path, None))
    assert [(fact.text, fact.status) for fact in tools.list().facts] == [(BOLT, "waiting"), (GRAZ.text, "current")]
    assert [fact.text for fact in tools.search("what is my dog called ?").facts] == [BOLT]
    assert tools.list("waiting").total == 1 and tools.list("superseded").total == 0
    changing = FactTools(StoredFacts(tmp_path, lambda path: session(model, path)))
    (fact,) = tools.list("waiting").facts
    assert changing.correct(fact.id, NOW).fact == fact.id
    assert changing.forget(fact.id).accepted and tools.list("waiting").total == 0


def test_the_verbs_of_a_memory_list_them_and_delete_one_without_a_version(model, tmp_path, monkeypatch):
    MemoryStore(tmp_path / "ines" / "memory").save(told(model, [GRAZ]))
    session(model, tmp_path / "ines").note(*said(BOLT))
    (row,) = document("memory", "list", tmp_path)["users"]
    assert row["facts"] == {"known": 1, "in_words": 1, "waiting": 1, "messages_waiting": 1}
    facts = document("memory", "facts", tmp_path / "ines")["facts"]
    assert [(fact["text"], fact["status"]) for fact in facts] == [(GRAZ.text, "current"), (BOLT, "waiting")]
    assert document("memory", "facts", tmp_path / "ines", "--version", "1")["facts"] == [GRAZ.to_dict()]
    assert "1 facts of 1 messages" in run("memory", "show", tmp_path / "ines").stdout
    monkeypatch.setattr(loading, "load_model", lambda name, options: model)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, options: session(model, tmp_path / "otto").tokenizer)
    shown = run("memory", "forget-fact", tmp_path / "ines", facts[1]["id"], "--yes").stdout
    assert "Deleted 1 facts." in shown and "version" not in shown
    assert texts(session(model, tmp_path / "ines")) == []


def test_the_chats_of_a_page_change_with_them(model, tmp_path):
    page = paged(tmp_path)
    page.session.note(*said(f"{BOLT} {BOSS}", "good .", CHESS))
    page.owner.chats.get(page.state()["chats"][0]["id"]).messages = list(page.session.messages)
    before = page.state()["memory"]["words"]
    page.changes.request("me", page.owner, FactChange((texts_id(page.session, BOLT),), NOW), 1)
    assert shown(page) == [message["content"] for message in page.session.messages] == [BOSS, NOW, "good .", CHESS]
    assert page.state()["memory"]["words"] != before, "the page draws the facts again"
    page.changes.request("me", page.owner, FactChange((texts_id(page.session, CHESS),)), 1)
    assert shown(page) == [BOSS, NOW, "good ."]
