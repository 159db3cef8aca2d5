"""`mcp`: facts as tools, tried with the client of the protocol's own package over stdin and stdout."""

import asyncio
from importlib.util import find_spec

import pytest
from commands import fails
from converted import converted
from test_memory_facts import BOLT, GRAZ, MOVED, told

from ttt_retrofit import InputError
from ttt_retrofit.chat.fact_change import FactChange
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.fact_access import Changed
from ttt_retrofit.serving.fact_tools import FactTools
from ttt_retrofit.serving.stored_facts import StoredFacts

needs_mcp = pytest.mark.skipif(find_spec("mcp") is None, reason="needs mcp")


@pytest.fixture(scope="module")
def made():
    return told(converted(), [BOLT, MOVED], [GRAZ])


class Kept:
    """In the place of `Facts`: notes what is to be changed."""

    def __init__(self, known=()):
        self.known, self.calls = [one.to_dict() for one in known], []

    def facts(self, user):
        return self.known

    def change(self, user, change):
        if change.ids == ("x",):
            raise InputError("No fact has the id 'x'.")
        self.calls.append((user, change))
        return Changed(change.text is not None, "because", "abc")


def test_facts_are_searched_and_listed_newest_first_without_a_session(made, tmp_path):
    MemoryStore(tmp_path / "memory").save(made)
    reading = FactTools(StoredFacts(tmp_path, None))
    assert [fact.id for fact in reading.search("Graz?").facts] == [GRAZ.id]
    assert [fact.id for fact in reading.list().facts] == [GRAZ.id, BOLT.id]
    listed = reading.list("all", limit=1, offset=1)
    assert listed.total == 3 and len(listed.facts) == 1
    assert [fact.status for fact in reading.list("superseded").facts] == ["superseded"]
    assert FactTools(StoredFacts(tmp_path / "nobody", None)).list().facts == []


def test_a_change_is_of_the_user_of_the_tools_and_says_how_it_ended():
    kept = Kept()
    changing = FactTools(kept, "ines")
    assert changing.add("I play chess.", "2026-05-01").accepted
    assert changing.correct(BOLT.id, "My dog is Panda.", purge=True).fact == "abc"
    assert changing.forget(GRAZ.id) == Changed(False, "because", "abc")
    assert kept.calls == [
        ("ines", FactChange((), "I play chess.", "2026-05-01")),
        ("ines", FactChange((BOLT.id,), "My dog is Panda.", purge=True)),
        ("ines", FactChange((GRAZ.id,))),
    ]


@needs_mcp
def test_tools_are_typed_and_those_that_delete_say_so():
    from mcp import Client

    from ttt_retrofit.serving.mcp_server import make_mcp_server

    async def talk():
        async with Client(make_mcp_server(FactTools(Kept()))) as client:
            listed = (await client.list_tools()).tools
            wrong = await client.call_tool("correct", {"id": "x", "text": "My dog is Panda."})
            right = await client.call_tool("correct", {"id": BOLT.id, "text": "My dog is Panda."})
            return listed, wrong, right

    listed, wrong, right = asyncio.run(talk())
    said = {tool.name: (tool.annotations.read_only_hint, tool.annotations.destructive_hint) for tool in listed}
    assert said == {
        "search": (True, None), "list": (True, None), "add": (False, False), "correct": (False, True),
        "forget": (False, True),
    }  # fmt: skip
    assert all(tool.description and tool.output_schema["type"] == "object" for tool in listed)
    assert all(field.get("description") for tool in listed for field in tool.input_schema["properties"].values())
    assert wrong.is_error and "No fact has the id 'x'" in wrong.content[0].text
    assert right.structured_content == {"accepted": True, "reason": "because", "fact": "abc"}


@needs_mcp
@pytest.mark.slow
def test_the_verb_serves_a_store_without_loading_a_model(made, tmp_path):
    from mcp import Client, StdioServerParameters, stdio_client
    from test_cli_process import COMMAND

    MemoryStore(tmp_path / "users" / "ines" / "memory").save(made)
    command, *arguments = [*COMMAND, "mcp", "--store", str(tmp_path / "users"), "--user", "ines"]

    async def talk():
        server = StdioServerParameters(command=command, args=[*arguments, "--model", "no/such/model/here"])
        async with Client(stdio_client(server)) as client:
            found = await client.call_tool("search", {"query": "What is the dog called?"})
            listed = await client.call_tool("list", {"status": "all"})
            added = await client.call_tool("add", {"text": "I play chess."})
            return found, listed, added

    found, listed, added = asyncio.run(talk())
    assert found.structured_content["facts"][0] == {
        "id": BOLT.id, "text": BOLT.text, "said_by": "user", "said_at": "2026-03-09", "status": "current",
        "learned": None,
    }  # fmt: skip
    assert listed.structured_content["total"] == 3
    assert added.is_error and "There is no model directory" in added.content[0].text


@pytest.mark.skipif(find_spec("mcp") is not None, reason="mcp is installed")
def test_without_the_package_the_extra_is_named(tmp_path):
    assert "pip install 'ttt-retrofit[mcp]'" in fails("mcp", "--store", tmp_path)


@needs_mcp
def test_one_of_a_store_and_a_user_of_a_server_is_needed(tmp_path):
    for given in ([], ["--url", "http://127.0.0.1:9"], ["--store", tmp_path, "--url", "http://127.0.0.1:9"]):
        assert "--store DIR, or --url URL and --user USER" in fails("mcp", *given)
