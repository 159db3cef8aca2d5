"""What a page does with its session, and which requests it answers. The browser's part is in test_page_browser.py."""

import json
import threading

import httpx
import pytest
from paged import ask, knowing, learning, paged, said
from served import until
from test_memory_facts import BOLT, GRAZ, MOVED, OSLO

from ttt_retrofit import InputError
from ttt_retrofit.chat.directory import CHANGES
from ttt_retrofit.chat.person_reviewer import PersonReviewer
from ttt_retrofit.serving.page import launch
from ttt_retrofit.serving.page.chats import in_prompt

pytestmark = pytest.mark.slow

WHERE, WHO, WHAT = "where is Marek ?", "who has the key ?", "what is blue ?"


def turn(question):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": f"{question} !"}]


def contents(messages):
    return [message["content"] for message in messages]


# ---------------------------------------------------------------- answers


def test_an_answer_comes_in_pieces_and_a_failed_one_leaves_no_trace(tmp_path, monkeypatch):
    page = paged(tmp_path)
    pieces = ask(page, WHERE)
    assert len(pieces) > 3 and said(page) == [WHERE, "".join(pieces).strip()] == contents(page.session.messages)
    before = said(page)

    def fails(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(page.session.model, "generate", fails)
    with pytest.raises(RuntimeError):
        ask(page, WHO)
    assert said(page) == before == contents(page.session.messages) and page.state()["answering"] is None


def test_a_stopped_answer_stays_as_far_as_it_was_written(tmp_path):
    page = paged(tmp_path, most=3000)
    pieces = page.send(next(iter(page.owner.chats)).id, WHERE)
    next(pieces)
    with pytest.raises(InputError, match="An answer is being written"):
        ask(page, WHO)
    page.stop()
    list(pieces)
    question, answer = said(page)
    assert question == WHERE and 0 < len(answer.split()) < 2000 and contents(page.session.messages) == [WHERE, answer]


def test_a_changed_message_and_a_new_answer_take_the_place_of_what_followed(tmp_path):
    page = paged(tmp_path)
    for question in (WHERE, WHO):
        ask(page, question)
    ask(page, WHO, place=2)  # answered again
    assert said(page)[::2] == [WHERE, WHO] and contents(page.session.messages) == said(page)
    ask(page, WHAT, place=0)
    assert said(page)[0] == WHAT and len(said(page)) == 2 and contents(page.session.messages) == said(page)
    with pytest.raises(InputError, match="No message of the user"):
        ask(page, WHO, place=1)


def test_each_chat_is_answered_by_its_own_messages_and_all_become_memory(tmp_path, monkeypatch):
    page, prompts = paged(tmp_path), []
    answer = page.session._answer
    monkeypatch.setattr(
        page.session, "_answer", lambda read, *more: prompts.append(contents(read)) or answer(read, *more)
    )
    ask(page, WHERE)
    page.owner.chats.begin()
    assert page.owner.chats.begin() is list(page.owner.chats)[1]  # an empty chat is enough
    ask(page, WHO, chat=1)
    ask(page, WHAT, chat=0)
    assert prompts == [[WHERE], [WHO], [*said(page)[:2], WHAT]]
    assert contents(page.session.messages)[::2] == [WHERE, WHO, WHAT]
    page.remove(page.state()["chats"][0]["id"])
    assert contents(page.session.messages) == said(page) and said(page)[0] == WHO


def test_what_was_learned_leaves_the_prompt_but_for_the_last_turns():
    first, second, third = map(turn, (WHERE, WHO, WHAT))
    chat = [*first, *second, *third]
    assert in_prompt(chat, [*second, *third], 1) == [*second, *third]
    assert in_prompt(chat, [], 1) == third and in_prompt(chat, [], 0) == [] and in_prompt([], [], 2) == []


def test_messages_that_a_consolidation_reads_are_taken_back_with_it(tmp_path, monkeypatch):
    page, abandoned = paged(tmp_path), []
    page.session.note(*turn(WHERE), *turn(WHO), *turn(WHERE))
    monkeypatch.setattr(page.session, "abandon", lambda: abandoned.append(page.session.messages))
    page.session._in_job = 2
    messages = page.session.messages
    page.session.withdraw(messages[4:], turn(WHAT))
    assert contents(page.session.messages) == contents([*turn(WHERE), *turn(WHO), *turn(WHAT)]) and not abandoned
    page.session.withdraw([*messages[:2], {"role": "user", "content": "never said"}])
    assert contents(page.session.messages) == contents([*turn(WHO), *turn(WHAT)]) and len(abandoned) == 1


# ---------------------------------------------------------------- the memory


def test_what_was_erased_while_it_was_answered_does_not_come_back(tmp_path):
    page = paged(tmp_path, most=3000)
    writing = page.send(next(iter(page.owner.chats)).id, WHO)
    next(writing)
    page.owners.erase("me")
    page.stop()
    list(writing)
    assert said(page) == page.session.messages == []


def test_silence_makes_a_memory_that_can_be_forgotten_and_rolled_back(tmp_path, monkeypatch):
    page = learning(tmp_path, monkeypatch)
    for question in (WHERE, WHO):
        ask(page, question)
    page.start()
    try:
        until(lambda: page.session.memory is not None)
        (entry,) = page.state()["memory"]["entries"]
        assert page.state()["memory"]["last_report"]["accepted"] and len(said(page)) == 4
        assert contents(page.session.messages) == said(page)[2:]
        with pytest.raises(InputError, match="No conversation is chosen"):
            page.owner.forget([])
        page.owner.forget([entry["name"]])
        assert page.state()["memory"]["entries"] == []
        page.owner.rollback(1)
        assert page.state()["memory"]["entries"] == [entry]
        page.owner.rollback(0)
        assert page.session.memory is None and page.owner.versions() == []
        with pytest.raises(InputError, match="none that the memory was built on"):
            page.owner.rollback(1)
    finally:
        page.close()


def test_versions_tell_what_a_way_back_would_change(tmp_path, monkeypatch):
    newest, before, never = knowing(tmp_path, monkeypatch).owner.versions()
    assert newest["current"] and newest["gained"] == newest["lost"] == []
    assert (before["gained"], before["lost"]) == ([OSLO.text], [BOLT.text, GRAZ.text])
    assert never["version"] == 0 and never["lost"] == [BOLT.text, GRAZ.text]


def test_a_deleted_fact_leaves_the_chats_and_a_waiting_change_the_disk_with_everything(tmp_path, monkeypatch):
    page = knowing(tmp_path, monkeypatch)
    page.session.note(*turn(BOLT.text), *turn(WHERE))
    page.owner.chats.get(page.state()["chats"][0]["id"]).messages = list(page.session.messages)
    with launch(page, "a talk", None) as url, httpx.Client(base_url=url) as client:
        facts = "v1/memories/me/facts"
        assert [fact["id"] for fact in client.get(facts).json()["data"]][:2] == [BOLT.id, GRAZ.id]
        (found,) = client.get(facts, params={"query": "dog", "status": "current"}).json()["data"]
        assert found["id"] == BOLT.id
        assert client.get(f"{facts}/{MOVED.id}/history").json()["data"][-1]["id"] == GRAZ.id
        assert client.delete(f"{facts}/{BOLT.id}").status_code == 202
        until(lambda: page.state()["changes"] == [])
        assert said(page)[0] == WHERE and contents(page.session.messages)[0] == WHERE
    (tmp_path / CHANGES).write_text("{}")
    page.owners.erase("me")
    assert not (tmp_path / CHANGES).exists() and page.session.memory is None


def test_facts_wait_for_a_review_on_the_page(tmp_path):
    review, kept = PersonReviewer(), []
    page = paged(tmp_path, review=review)
    thread = threading.Thread(target=lambda: kept.extend(review([BOLT, OSLO])))
    thread.start()
    until(lambda: len(page.state()["review"]) == 2)
    with pytest.raises(InputError, match="do not wait"):
        page.keep({"other": "words"})
    page.keep({BOLT.id: "The user's dog is called Volt."})
    thread.join(5)
    assert [fact.text for fact in kept] == ["The user's dog is called Volt."] and kept[0].id == BOLT.id


# ---------------------------------------------------------------- requests


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    page = paged(tmp_path_factory.mktemp("page"))
    with launch(page, "a talk", None) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_a_page_is_made_of_files_of_this_machine(shown):
    page = shown.get("/")
    assert "<main" in page.text and "//" not in page.text.replace("<!doctype html>", "")
    for name in ("style.css", "js/main.js", "vendor/marked.js", "vendor/purify.js"):
        assert shown.get(f"assets/{name}").status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy


def test_a_web_page_that_poses_as_local_is_shown_nothing(shown):
    assert shown.get("page/state").json()["title"] == "a talk"
    posing = shown.get("page/state", headers={"Host": "evil.example", "Origin": "http://evil.example"})
    assert posing.status_code == 403 and "evil.example" in posing.text


def test_no_page_shows_it_in_a_frame(shown):
    for path in ("", "page/state", "assets/style.css", "nothing"):
        headers = shown.get(f"{path}").headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"] and headers["x-frame-options"] == "DENY"


def test_pages_of_other_origins_read_and_change_nothing(shown):
    """Another port of this machine is another origin; so is a frame without one."""
    state, stop = "page/state", "page/stop"
    for origin in ("http://localhost:9", "http://127.0.0.1:9", "https://evil.example", "null", f"{shown.base_url}x"):
        headers = {"Origin": origin}
        for reply in (
            shown.get(state, headers=headers),
            shown.post(stop, json={}, headers=headers),
            shown.delete("v1/memories/me", headers=headers),
            shown.options(stop, headers=headers | {"Access-Control-Request-Method": "POST"}),
        ):
            assert reply.status_code == 403 and not any(name.startswith("access-control") for name in reply.headers)
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert shown.get(state, headers={"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"}).status_code == 403
    assert shown.get("/", headers=link).status_code == 200
    assert shown.get(state, headers={"Origin": str(shown.base_url).rstrip("/")}).status_code == 200


def test_requests_that_ask_for_nothing_are_told_so(shown):
    (chat,) = shown.get("page/state").json()["chats"]
    messages = f"page/chats/{chat['id']}/messages"
    assert shown.post(messages, files={"files": b"x"}).status_code == 415
    assert shown.post(messages, json={"text": "x" * (1 << 20)}).status_code == 413
    for path, body, told in (
        (messages, {"text": " "}, "empty"),
        (messages, {"text": "hello", "place": 7}, "No message of the user"),
        ("page/chats/none/messages", {"text": "hello"}, "not there anymore"),
        ("page/rollback", {"version": 9}, "none that the memory was built on"),
        ("page/review", {"texts": {"a": "b"}}, "do not wait"),
        ("v1/memories/ines/facts", {"text": "My dog is Bolt."}, "no user"),
    ):
        reply = shown.post(path, json=body)
        assert reply.status_code == 400 and told in reply.json()["error"]["message"]
    assert shown.get("page/nothing").status_code == 404


def test_an_answer_is_sent_as_lines_of_json(shown):
    (chat,) = shown.get("page/state").json()["chats"]
    lines = shown.post(f"page/chats/{chat['id']}/messages", json={"text": WHERE}).text.splitlines()
    written = "".join(json.loads(line)["piece"] for line in lines)
    told = shown.get(f"page/chats/{chat['id']}").json()
    assert [one["content"] for one in told["messages"]] == [WHERE, written.strip()] and told["title"] == WHERE
    assert all(one["waiting"] for one in told["messages"])
