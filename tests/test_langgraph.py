"""LangGraph's `BaseStore` over facts, through the methods of that class itself; skipped where it is not installed."""

import asyncio

import pytest
from test_memory_facts import BOLT, GRAZ, MOVED

from ttt_retrofit import ConfigError, InputError
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.search import search
from ttt_retrofit.serving.fact_access import Changed

pytest.importorskip("langgraph.store.base")
from ttt_retrofit.serving.langgraph_store import UNKNOWN, FactStore

INES = ("memories", "ines")


class Kept:
    """In the place of `Facts`."""

    def __init__(self):
        self.known = {"ines": [BOLT, MOVED, GRAZ], "otto": []}

    def users(self):
        return list(self.known)

    def facts(self, user):
        return [one.to_dict() for one in self.known.get(user, [])]

    def search(self, user, query, most):
        current = [one for one in self.known[user] if one.status == "current"]
        return [{**one.to_dict(), "score": score} for one, score in search(current, query)[:most]]

    def change(self, user, change):
        if change.text == "no":
            return Changed(False, "for the test")
        self.known[user] = [one for one in self.known[user] if one.id not in change.ids]
        if change.text is None:
            return Changed(True, "")
        self.known[user].append(Fact.of(change.text, "user", None, [0], "a" * 64))
        return Changed(True, "", self.known[user][-1].id)


@pytest.fixture
def store():
    return FactStore(Kept())


def texts(items):
    return [item.value["text"] for item in items]


def test_items_are_current_facts_searched_by_words(store):
    assert texts(store.search(INES)) == [BOLT.text, GRAZ.text]
    assert texts(store.search(("memories",), query="Graz")) == [GRAZ.text]
    assert texts(store.search(INES, limit=1, offset=1)) == [GRAZ.text]
    (found,) = store.search(INES, query="Bolt?")
    assert (found.key, found.namespace, found.score) == (BOLT.id, INES, 1.0)
    assert store.get(INES, BOLT.id).created_at.date().isoformat() == BOLT.said_at
    assert store.search(("memories", "nobody")) == [] and store.get(("memories", "nobody"), "x") is None


def test_an_item_is_put_changed_and_deleted_under_its_key(store):
    store.put(INES, "mine", {"text": "I play chess."})
    item = store.get(INES, "mine")
    assert (item.key, item.value, item.created_at) == ("mine", {"text": "I play chess."}, UNKNOWN)
    store.delete(INES, "mine")
    assert store.get(INES, "mine") is None and len(store.search(INES)) == 2
    store.delete(INES, "mine")
    asyncio.run(store.aput(INES, BOLT.id, {"text": "My dog is Panda."}))
    assert texts(store.search(INES)) == [GRAZ.text, "My dog is Panda."]


def test_namespaces_are_users(store):
    assert store.list_namespaces() == [INES, ("memories", "otto")]
    assert store.list_namespaces(suffix=("otto",)) == [("memories", "otto")] == store.list_namespaces(offset=1)
    assert store.list_namespaces(prefix=("*", "ines")) == [INES]
    assert store.list_namespaces(prefix=("other",)) == [] == store.list_namespaces(suffix=("a", "b", "otto"))
    assert store.list_namespaces(max_depth=1) == [("memories",)]


def test_what_a_fact_is_not_is_refused(store):
    with pytest.raises(ConfigError, match="refused: for the test"):
        store.put(INES, "mine", {"text": "no"})
    for value in ({"text": "a", "b": 1}, {"text": 1}, {}):
        with pytest.raises(InputError, match=r"expected \{'text': 'a sentence'\}"):
            store.put(INES, "mine", value)
    with pytest.raises(InputError, match=r"expected \('memories', 'USER'\)"):
        store.get(("ines",), "x")
    with pytest.raises(InputError, match="filter"):
        store.search(INES, filter={"a": 1})
    with pytest.raises(NotImplementedError, match="TTL"):
        store.put(INES, "mine", {"text": "a"}, ttl=1)
