"""mem0's interface over a store and over a server: its signatures, its shapes, and one story told through each."""

import inspect
from contextlib import contextmanager

import httpx
import pytest
from owned import ANTWERP, BOLT, LEEDS, PROMPTS, RECIPE, WORDS, made_with, study
from served import quick, served

from ttt_retrofit import ConfigError, InputError
from ttt_retrofit.chat.directory import STORE
from ttt_retrofit.consolidation.prompts import Prompts
from ttt_retrofit.consolidation.study.studied import Studying
from ttt_retrofit.consolidation.verify.deletion import ForgottenVerification
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.directories import directory_name, write_identity
from ttt_retrofit.serving.mem0 import Memory, MemoryClient

PANDA = "my dog is called Panda ."
INES = {"user_id": "ines"}

# Parameters of mem0ai 2.2.1, as `inspect` writes them; "*" is before those that are given by name alone.
MEMORY = {
    "from_config": "config_dict",
    "add": "messages * user_id agent_id run_id metadata timestamp expiration_date infer memory_type prompt",
    "get": "memory_id",
    "get_all": "* filters top_k show_expired **kwargs",
    "search": "query * top_k filters threshold rerank explain reference_date show_expired **kwargs",
    "update": "memory_id text metadata expiration_date data",
    "delete": "memory_id",
    "delete_all": "user_id agent_id run_id",
    "history": "memory_id",
    "reset": "",
    "close": "",
}
CLIENT = {
    "__init__": "self api_key host client",
    "add": "self messages options **kwargs",
    "get": "self memory_id",
    "get_all": "self options **kwargs",
    "search": "self query options **kwargs",
    "update": "self memory_id options **kwargs",
    "delete": "self memory_id delete_linked",
    "delete_all": "self options **kwargs",
    "history": "self memory_id",
    "users": "self",
}
DEFAULTS = {"top_k": 20, "threshold": 0.1, "infer": True, "rerank": False, "explain": False, "show_expired": False}


def written(function):
    """The names of a function's parameters, as in the tables."""
    names, by_name = [], False
    for one in inspect.signature(function).parameters.values():
        if one.kind is one.KEYWORD_ONLY and not by_name:
            names.append("*")
            by_name = True
        names.append(f"**{one.name}" if one.kind is one.VAR_KEYWORD else one.name)
    return " ".join(names)


def test_the_signatures_are_those_of_mem0ai():
    for name, parameters in MEMORY.items():
        bound = getattr(Memory, name)
        assert written(bound).removeprefix("self").strip() == parameters, name
        for one in inspect.signature(bound).parameters.values():
            assert one.name not in DEFAULTS or one.default == DEFAULTS[one.name], (name, one.name)
    for name, parameters in CLIENT.items():
        assert written(getattr(MemoryClient, name)) == parameters, name


@pytest.fixture(scope="module")
def model():
    return quick()


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    return made_with(model, tmp_path_factory.mktemp("work"))


@contextmanager
def stored(store, model):
    memory = Memory.from_config({"store": store, "model": model, "tokenizer": WORDS, "config": RECIPE})
    yield memory
    memory.close()


@contextmanager
def by_a_client(store, model):
    with served(store, model, key="secret", config=RECIPE) as (url, _):
        yield MemoryClient("secret", f"{url}/v1")


@pytest.fixture
def store(made, tmp_path, monkeypatch):
    monkeypatch.setattr(Studying, "study", study)
    monkeypatch.setattr(Prompts, "load", lambda given: PROMPTS)
    directory = tmp_path / directory_name("ines")
    MemoryStore(directory / STORE).save(made)
    write_identity(directory, "ines")
    return tmp_path


def texts(found):
    return [one["memory"] for one in found["results"]]


@pytest.mark.parametrize("opened", [stored, by_a_client])
def test_facts_are_listed_searched_and_erased(opened, store, model):
    with opened(store, model) as m:
        listed = m.get_all(filters=INES)
        assert texts(listed) == [BOLT, ANTWERP, LEEDS]
        first = listed["results"][0]
        assert {"id", "memory", "hash", "metadata", "created_at", "updated_at", "user_id"} <= set(first)
        assert (m.get(first["id"]), first["user_id"], first["created_at"]) == (first, "ines", "2026-03-05")
        found = m.search("where is the museum ?", filters=INES, top_k=1)
        assert texts(found) == [LEEDS] and found["results"][0]["score"] > 0.1
        otto = {"user_id": "otto"}
        assert texts(m.get_all(filters=otto)) == [] == texts(m.search("dog", filters=otto))
        m.delete_all(user_id="ines")
        assert texts(m.get_all(filters=INES)) == []


@pytest.mark.slow
def test_a_fact_keeps_its_id_when_it_is_updated_until_it_is_deleted(store, model):
    with by_a_client(store, model) as m:
        first = m.get_all(filters=INES)["results"][0]["id"]
        assert m.update(first, text=PANDA) == {"message": "Memory updated successfully!"}
        assert m.get(first)["memory"] == PANDA
        history = m.history(first)
        assert [(one["event"], one["new_memory"]) for one in history] == [("ADD", None), ("UPDATE", PANDA)]
        assert set(history[0]) == {
            "id", "memory_id", "old_memory", "new_memory", "event", "created_at", "updated_at", "is_deleted",
            "actor_id", "role",
        }  # fmt: skip
        assert m.delete(first) == {"message": "Memory deleted successfully!"}
        assert m.get(first) is None and texts(m.get_all(filters=INES)) == [ANTWERP, LEEDS]


@pytest.mark.slow
def test_messages_are_consolidated_and_a_text_can_be_added_as_it_stands(model, store):
    with stored(store, model) as m:
        (added,) = m.add(BOLT, user_id="otto")["results"]
        assert (added["memory"], added["event"]) == (BOLT, "ADD")
        assert m.get(added["id"])["memory"] == BOLT
        assert m.add(BOLT, user_id="otto") == {"results": []}, "it is known"
        m.delete(added["id"])
        assert texts(m.get_all(filters={"user_id": "otto"})) == []
        assert [one["memory"] for one in m.add(PANDA, user_id="eva", infer=False)["results"]] == [PANDA]
        m.reset()
        assert m._facts.users() == []


def test_a_server_consolidates_later(model, store):
    with by_a_client(store, model) as m:
        assert m.add(PANDA, user_id="eva")["results"][0]["status"] == "PENDING"
        assert m.users() == {"results": [{"name": "eva", "type": "user"}, {"name": "ines", "type": "user"}]}


def test_what_is_refused_raises_and_nothing_is_lost(model, store, monkeypatch):
    monkeypatch.setattr(ForgottenVerification, "decided", lambda self, asked: (False, "for the test."))
    with stored(store, model) as m:
        first = m.get_all(filters=INES)["results"][0]["id"]
        with pytest.raises(ConfigError, match="The change was refused: for the test"):
            m.delete(first)
        assert m.get(first)["memory"] == BOLT
        with pytest.raises(InputError, match="Memory with id ines/x not found"):
            m.delete("ines/x")
        assert m.get("nobody") is None and m.history("ines/x") == []
        for call, words in (
            (lambda: m.add(PANDA, user_id="ines", metadata={"a": 1}), "metadata=.* is not supported"),
            (lambda: m.add(PANDA), "user_id is None"),
            (lambda: m.add(" ", user_id="ines"), "nothing to remember"),
            (lambda: m.search("x", filters={"agent_id": "a"}), "agent_id='a' is not supported"),
            (lambda: m.get_all(filters=INES, top_k=0), "top_k is 0"),
        ):
            with pytest.raises(InputError, match=words):
                call()
        assert texts(m.search("museum", user_id="ines", limit=1)) == [LEEDS], "as mem0ai 1 was asked"


def test_a_memory_without_a_store_or_a_server_says_what_it_needs(monkeypatch):
    for name in ("STORE", "MODEL", "URL"):
        monkeypatch.delenv(f"TTT_RETROFIT_{name}", raising=False)
    with pytest.raises(ConfigError, match=r"expected \{\"store\": DIRECTORY"):
        Memory()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.get(None), "memory_id is None; expected 'USER/FACT'"),
        (lambda m: m.search(None, filters=INES), "query is None; expected words"),
        (lambda m: m.search("a", filters=["ines"]), "filters is \\['ines'\\]; expected {'user_id': USER}"),
        (lambda m: m.search("a", filters={"AND": ["ines"]}), "expected {'user_id': USER}"),
        (lambda m: m.add([{"role": "user", "content": None}], user_id="ines"), "expected .* with a text"),
        (lambda m: m.add([{"role": "user", "content": [{"type": "image_url"}]}], user_id="ines"), "'image_url'"),
        (lambda m: m.add([{"role": "robot", "content": "beep"}], user_id="ines"), "'robot'.* with one of the roles"),
        (lambda m: m.add([{"role": "system", "content": "be kind"}], user_id="ines"), "nothing to remember"),
    ],
)
def test_what_a_stranger_gives_is_named_with_what_was_expected(tmp_path, call, words):
    memory = Memory({"store": tmp_path / "new", "model": "is loaded with the first change"})
    assert texts(memory.get_all(filters={"user_id": "Ωλ/é 🙂"})) == [] and memory.get("no user") is None
    with pytest.raises(InputError, match=words):
        call(memory)
    assert not (tmp_path / "new").exists()


def test_a_memory_of_unknown_settings_or_a_file_is_refused_when_it_is_made(tmp_path):
    (tmp_path / "file").touch()
    for config, error, words in (
        ({"store": tmp_path, "model": "x", "not_tokens": 9}, ConfigError, "no \\['not_tokens'\\].*'note_tokens'"),
        ({"store": tmp_path / "file", "model": "x"}, InputError, "is a file; expected a directory"),
        ({"url": "http://127.0.0.1:9", "model": "x"}, ConfigError, "takes url, key and client"),
    ):
        with pytest.raises(error, match=words):
            Memory(config)


@pytest.mark.parametrize(
    ("status", "said"), [(200, "<html>hello</html>"), (404, "<html>"), (404, '{"detail": "Not Found"}'), (200, "[]")]
)
def test_an_address_where_something_else_answers_is_named(status, said):
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=said))
    other = MemoryClient("key", "http://other", httpx.Client(transport=transport))
    for call in (other.users, lambda: other.get_all(user_id="ines"), lambda: other.delete_all(user_id="ines")):
        with pytest.raises(InputError, match=f"http://other/v1/memories.* answered {status}: .*the right address"):
            call()
    for url, words in (("nowhere", "http://"), ("http://[::1", "Invalid port"), ("http://127.0.0.1:9", "running")):
        with pytest.raises(InputError, match=f"cannot be reached: .*{words}"):
            MemoryClient(host=url).users()
