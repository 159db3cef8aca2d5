"""The facts of a server's users: listed, searched, added, corrected, deleted; of each user only their own."""

import dataclasses
import re
from urllib.parse import quote

import httpx
import pytest
from owned import ANTWERP, BOLT, LEEDS, PROMPTS, RECIPE, ids, made_with, study
from served import quick, served, until, users

from ttt_retrofit.chat.directory import CHANGES, STORE, TURNS
from ttt_retrofit.chat.fact_change import FactChange
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.studied import Studying
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving import openapi
from ttt_retrofit.serving.changes import FactChanges
from ttt_retrofit.serving.directories import directory_name, write_identity
from ttt_retrofit.serving.memories import RESOURCES

PANDA = "my dog is called Panda ."
ODD = "ines/facts?#%2F é"  # a user whose id looks like an address


@pytest.fixture(scope="module")
def model():
    return quick()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    return made_with(model, tmp_path_factory.mktemp("work"))


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    """A server's store in which two users remember the talk."""
    monkeypatch.setattr(Studying, "study", study)
    monkeypatch.setattr(Prompts, "load", lambda given: PROMPTS)
    for identity in ("ines", ODD):
        directory = tmp_path / directory_name(identity)
        MemoryStore(directory / STORE).save(made)
        write_identity(directory, identity)
    return tmp_path


@pytest.fixture
def running(model, store):
    with served(store, model, config=RECIPE) as (url, service):
        yield url, service


def address(url, *behind, identity="ines"):
    return "/".join([f"{url}/v1/memories/{quote(identity, safe='')}", *behind])


def texts(reply):
    return [fact["text"] for fact in reply.json()["data"]]


def without(memory, fact):
    """As it is on disk where a server was killed after it deleted a fact."""
    kept = [dataclasses.replace(e, facts=tuple(one for one in e.facts if one.id != fact)) for e in memory.entries]
    return dataclasses.replace(memory, entries=tuple(kept))


def ended(url, reply):
    """The change that a reply names, when it has ended."""
    assert reply.status_code == 202, reply.text
    change = address(url, "changes", reply.json()["id"])
    until(lambda: httpx.get(change).json()["status"] not in ("waiting", "working"))
    return httpx.get(change).json()


def test_facts_are_listed_in_pages_searched_and_read(running, made):
    url, _ = running
    facts = address(url, "facts")
    assert texts(httpx.get(facts)) == [BOLT, ANTWERP, LEEDS]
    first = httpx.get(facts, params={"limit": 2}).json()
    assert first["has_more"] and [one["text"] for one in first["data"]] == [BOLT, ANTWERP]
    assert texts(httpx.get(facts, params={"after": first["data"][-1]["id"]})) == [LEEDS]
    found = httpx.get(facts, params={"query": "Where is that museum?"}).json()["data"]
    assert found[0]["text"] == LEEDS and 0 < found[0]["score"] <= 1
    assert texts(httpx.get(facts, params={"status": "superseded"})) == []
    one = httpx.get(address(url, "facts", ids(made)[BOLT])).json()
    assert (one["text"], one["said_at"], one["provenance"]) == (BOLT, "2026-03-05", "said")
    assert texts(httpx.get(address(url, "facts", ids(made)[BOLT], "history"))) == [BOLT]
    assert [one["version"] for one in httpx.get(address(url, "versions")).json()["data"]] == [1]


@pytest.mark.slow
def test_a_fact_is_deleted_corrected_and_added_for_one_user_alone(running, made):
    url, service = running
    name = ids(made)
    change = ended(url, httpx.delete(address(url, "facts", name[ANTWERP]), params={"purge": "true"}))
    assert change["status"] == "accepted" and change["report"]["forgotten"] == 1
    assert texts(httpx.get(address(url, "facts"))) == [BOLT, LEEDS]
    assert [one["version"] for one in httpx.get(address(url, "versions")).json()["data"]] == [2]
    change = ended(url, httpx.post(address(url, "facts", name[BOLT]), json={"text": PANDA, "date": "2026-05-01"}))
    assert change["status"] == "accepted"
    new = httpx.get(address(url, "facts", change["fact"])).json()
    assert (new["text"], new["said_at"], new["provenance"]) == (PANDA, "2026-05-01", "added")
    assert texts(httpx.get(address(url, "facts", name[BOLT], "history"))) == ["", PANDA]
    change = ended(url, httpx.post(address(url, "facts"), json={"text": ANTWERP}))
    assert change["status"] == "accepted" and ANTWERP in texts(httpx.get(address(url, "facts")))
    assert texts(httpx.get(address(url, "facts", identity=ODD))) == [BOLT, ANTWERP, LEEDS], "nothing of the other's"
    assert httpx.get(address(url, "changes", identity=ODD)).json()["data"] == []
    assert httpx.get(address(url, "changes", change["id"], identity=ODD)).status_code == 404
    assert len(httpx.get(address(url, "changes")).json()["data"]) == 3
    assert service.users.open(directory_name("ines")).session.directory.joinpath(CHANGES).exists()


@pytest.mark.parametrize(
    ("method", "behind", "settings", "status", "words"),
    [
        ("GET", ["facts", "nobody"], {}, 404, "no fact 'nobody'"),
        ("DELETE", ["facts", "nobody"], {}, 404, "no fact 'nobody'"),
        ("POST", ["facts", "nobody"], {"json": {"text": PANDA}}, 404, "no fact 'nobody'"),
        ("GET", ["changes", "nobody"], {}, 404, "no change 'nobody'"),
        ("GET", ["facts"], {"params": {"status": "old"}}, 400, "status is 'old'"),
        ("GET", ["facts"], {"params": {"limit": "0"}}, 400, "limit is '0'"),
        ("GET", ["facts"], {"params": {"limit": "99999999"}}, 400, "expected 1 to"),
        ("GET", ["facts"], {"params": {"after": "x"}}, 400, "after is 'x'"),
        ("GET", ["facts"], {"params": {"page": "2"}}, 400, "The query has 'page'"),
        ("GET", ["versions"], {"params": {"page": "2"}}, 400, "takes no query"),
        ("POST", ["facts"], {"json": {"text": " "}}, 400, "text: expected a sentence"),
        ("POST", ["facts"], {"json": {"text": "x" * 2001}}, 400, "at most 2000"),
        ("POST", ["facts"], {"json": {"text": PANDA, "date": "soon"}}, 400, "date is 'soon'"),
        ("POST", ["facts"], {"json": {"text": PANDA, "color": "red"}}, 400, "color='red' is not supported"),
        ("POST", ["facts"], {"content": "text"}, 415, "expected application/json"),
        ("POST", ["messages"], {"json": {"messages": []}}, 400, "messages"),
        ("DELETE", ["facts"], {}, 405, "Method Not Allowed"),
    ],
)
def test_what_cannot_be_done_is_an_error_in_the_usual_shape(
    model, made, shared, method, behind, settings, status, words
):
    reply = httpx.request(method, address(shared, *behind), **settings)
    assert (reply.status_code, words in reply.json()["error"]["message"]) == (status, True), reply.text


@pytest.fixture(scope="module")
def shared(model, made, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    MemoryStore(store / directory_name("ines") / STORE).save(made)
    with served(store, model, config=RECIPE) as (url, _):
        yield url


def test_nothing_is_told_of_a_user_without_a_store_and_asking_makes_none(shared):
    for behind in (["facts"], ["facts", "x"], ["changes"], ["messages"], ["versions"]):
        assert httpx.get(address(shared, *behind, identity="otto")).status_code == 404
    assert [one["id"] for one in httpx.get(f"{shared}/v1/memories").json()["data"]] != ["otto"]


def test_messages_of_elsewhere_wait_to_become_memory(shared):
    said = [{"role": "user", "content": PANDA}]
    assert httpx.post(address(shared, "messages", identity="eva"), json={"messages": said}).json()["waiting"] == 1
    assert httpx.post(address(shared, "messages", identity="eva"), json={"messages": said}).json()["waiting"] == 1
    waiting = httpx.get(address(shared, "messages", identity="eva")).json()["data"]
    assert [one["content"] for one in waiting] == [PANDA]


def test_changes_that_wait_survive_a_restart_and_what_was_done_is_not_done_again(model, store, made):
    fact = ids(made)[BOLT]
    known = users(model, store, RECIPE)
    changes = FactChanges(known)
    changes.request("ines", known.get("ines"), FactChange((fact,)), most=1)
    known.close()
    MemoryStore(store / directory_name("ines") / STORE).save(without(made, fact))
    known = users(model, store, RECIPE)
    changes = FactChanges(known)
    (waiting,) = changes.of("ines")
    changes.work(lambda: False)
    assert waiting.status == "accepted" and "before the server was stopped" in waiting.reason
    assert not FactChanges(known).waiting
    known.close()


def test_a_purge_that_was_killed_after_the_new_version_was_written_is_finished(model, store, made):
    """Else the words would be learned again, and the earlier version would stay, of a deletion that is "accepted"."""
    fact, directory = ids(made)[BOLT], store / directory_name("ines")
    known = users(model, store, RECIPE)
    user = known.get("ines")
    user.record([{"role": "user", "content": "Bolt has a key ."}], "what key ?")
    user.record([{"role": "user", "content": "Otto plays chess ."}], "who is Otto ?")
    FactChanges(known).request("ines", user, FactChange((fact,), purge=True), most=1)
    known.close()
    MemoryStore(directory / STORE).save(without(made, fact))
    known = users(model, store, RECIPE)
    FactChanges(known).work(lambda: False)
    assert [one["content"] for one in known.get("ines").session.messages] == ["Otto plays chess .", "who is Otto ?"]
    assert MemoryStore(directory / STORE).versions() == [2] and b"Bolt" not in (directory / TURNS).read_bytes()
    known.close()


def test_a_damaged_file_of_changes_keeps_no_server_from_starting(model, store):
    path = store / directory_name("ines") / CHANGES
    path.write_text("{")
    known = users(model, store, RECIPE)
    assert not FactChanges(known).waiting and path.read_text() == "{"
    known.close()


@pytest.mark.slow
def test_a_consolidation_waits_for_a_change_and_goes_on(model, store, made):
    config = dataclasses.replace(RECIPE, epochs=3.0)
    with served(store, model, config=config, idle=0.1) as (url, service):
        said = {"messages": [{"role": "user", "content": BOLT}]}
        assert httpx.post(address(url, "messages", identity="eva"), json=said).status_code == 202
        eva = service.users.get("eva")
        until(lambda: eva.consolidating())
        change = ended(url, httpx.delete(address(url, "facts", ids(made)[ANTWERP])))
        assert change["status"] == "accepted" and eva.memory is None, "it was not waited for"
        until(lambda: eva.memory is not None)
        assert texts(httpx.get(address(url, "facts", identity="eva"))) == [BOLT]


def test_the_facts_of_others_need_the_key_and_the_documentation_needs_none(model, store):
    with served(store, model, key="secret", config=RECIPE) as (url, _):
        assert httpx.get(address(url, "facts")).status_code == 401
        assert httpx.delete(address(url, "facts", "x")).status_code == 401
        assert httpx.get(address(url, "facts"), headers={"Authorization": "Bearer secret"}).status_code == 200
        page, document = httpx.get(f"{url}/docs"), httpx.get(f"{url}/openapi.json").json()
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"https?:|src=|<script|@import|url\(", page.text), "it loads nothing"
    assert document["openapi"] == "3.1.0" and "ines" not in page.text
    listed = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    assert listed == {(path, method) for path, method, _ in openapi.operations()}
    for behind, handlers in RESOURCES.items():
        assert len([1 for path, method in listed if path.count("/") == 3 + len(behind) and method in handlers])
    assert set(openapi.SUMMARIES) == {name for _, _, name in openapi.operations()}
