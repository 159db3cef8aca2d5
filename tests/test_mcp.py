"""`mcp`: facts as tools, tried with the client of the protocol's own package over stdin and stdout."""

import asyncio
import dataclasses
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from commands import fails
from converted import converted
from test_memory_facts import BOLT, GRAZ, MOVED, REPORT, told

from ttt_retrofit import InputError
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.fact_tools import FactTools

needs_mcp = pytest.mark.skipif(find_spec("mcp") is None, reason="needs mcp")


@pytest.fixture(scope="module")
def made():
    return told(converted(), [BOLT, MOVED], [GRAZ])


class Session:
    """Notes what it is asked to change."""

    store = SimpleNamespace(current=lambda: 2)

    def __init__(self):
        self.calls = []

    def add_fact(self, *call):
        self.calls.append(call)
        return REPORT

    def correct_fact(self, fact, text, **settings):
        if fact != BOLT.id:
            raise InputError(f"No fact has the id {fact!r}.")
        self.calls.append((fact, text, settings))
        return REPORT

    def forget_fact(self, fact, **settings):
        self.calls.append((fact, settings))
        return dataclasses.replace(REPORT, accepted=False, reason="another fact says the same")


def tools(made, session):
    @contextmanager
    def opened():
        yield session

    return FactTools(lambda: made, opened)


def test_facts_are_searched_and_listed_newest_first_without_a_session(made):
    reading = FactTools(lambda: made, None)
    assert [fact.id for fact in reading.search("Graz?").facts] == [GRAZ.id]
    assert [fact.id for fact in reading.list().facts] == [GRAZ.id, BOLT.id]
    listed = reading.list("all", limit=1, offset=1)
    assert listed.total == 3 and len(listed.facts) == 1
    assert [fact.status for fact in reading.list("superseded").facts] == ["superseded"]
    assert FactTools(lambda: None, None).list().facts == []


def test_a_change_is_one_session_and_says_how_it_ended(made):
    session = Session()
    changing = tools(made, session)
    assert changing.add("I play chess.", "2026-05-01").accepted
    assert changing.correct(BOLT.id, "My dog is Panda.", purge=True).version == 2
    assert changing.forget(GRAZ.id).reason == "another fact says the same"
    assert session.calls == [
        ("I play chess.", "2026-05-01"),
        (BOLT.id, "My dog is Panda.", {"date": None, "purge": True}),
        (GRAZ.id, {"purge": False}),
    ]


@needs_mcp
def test_tools_are_typed_and_those_that_delete_say_so(made):
    from mcp import Client

    from ttt_retrofit.serving.mcp_server import make_mcp_server

    async def talk():
        async with Client(make_mcp_server(tools(made, Session()))) as client:
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
    assert right.structured_content == {"accepted": True, "reason": REPORT.reason, "version": 2}


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
