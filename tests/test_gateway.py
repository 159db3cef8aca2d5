"""A gateway before an engine: what a request asks of the engine, what comes back, and what is kept when it goes."""

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from peft_engine import BASE, PeftEngine
from remembered import memory as remembered
from served import HELLO, NAME, address_of, ask, client, quick, said, until
from test_agent import CONFIG
from words import QUESTIONS, tokenizer

from ttt_retrofit import ChatSession, ConfigError
from ttt_retrofit.chat.directory import STORE
from ttt_retrofit.inner.below import inputs_of
from ttt_retrofit.memory.entry import GateKeys
from ttt_retrofit.memory.facts import Fact
from ttt_retrofit.memory.gates import running_mean
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving import gateway as gateway_module
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.directories import directory_name
from ttt_retrofit.serving.engine import alone, named
from ttt_retrofit.serving.engine_kinds import connect
from ttt_retrofit.serving.gate_reader import GateReader
from ttt_retrofit.serving.gateway import Gateway
from ttt_retrofit.serving.idle import IdleConsolidator
from ttt_retrofit.serving.prompts import Prompts
from ttt_retrofit.serving.user import User
from ttt_retrofit.serving.users import Users

RELATED = said("who has the old key under window ?")
UNRELATED = said("Panda Bolt Leeds chess 7719 violet November daughter")
OPENER = (tokenizer().convert_tokens_to_ids("user"),)


@pytest.fixture(scope="module")
def model():
    return quick()


def about(model, *asked):
    """A memory with an entry for each conversation, which speaks there and nowhere else."""
    made = remembered(model, *range(1, 1 + len(asked)))
    reader, prompts = GateReader(model), Prompts(tokenizer())
    entries = []
    for entry, messages in zip(made.entries, asked):
        ids = torch.tensor([prompts.ids(messages)])
        with inputs_of(reader._plain.get_submodule(made.layer), last=True) as reached, torch.no_grad():
            reader._plain(input_ids=ids)
        means, _, _ = running_mean(reached[0], None, torch.tensor([ids.shape[1]]))
        key = made.background.whitened(means[0, -1:])
        entries.append(dataclasses.replace(entry, gate=GateKeys(key, 0.97, 0.99)))
    return dataclasses.replace(made, entries=tuple(entries), opener=OPENER)


@contextmanager
def gateway(model, store, url, adapters, limits=Limits(max_new_tokens=8), idle=1e9, kind=None):
    engine = connect(url, adapters, kind=kind)
    gates = GateReader(model)

    def open_session(path):
        return ChatSession(model, tokenizer(), path, keep_turns=0, config=CONFIG, questions=QUESTIONS)

    known = Users(store, open_session, changed=engine.follow)
    service = Gateway(NAME, engine, gates, Prompts(tokenizer()), known, IdleConsolidator(known, idle), limits)
    with address_of(service) as url:
        yield url, service


@pytest.fixture(scope="module")
def engine():
    return PeftEngine()


@pytest.fixture(scope="module")
def address(engine):
    with engine.running() as url:
        yield url


@pytest.fixture
def running(model, engine, address, tmp_path):
    engine.restart()
    engine.seen.clear()
    with gateway(model, tmp_path / "store", address, tmp_path / "adapters") as (url, service):
        yield client(url).chat.completions, service


def content(reply):
    return reply.choices[0].message.content


def test_where_nothing_speaks_the_answer_is_the_engines_own(running, model, engine):
    chat, service = running
    service.users.get("ines").session.memory = about(model, RELATED)
    expected = " ".join(engine.answer(UNRELATED, 8))
    assert content(ask(chat, UNRELATED)) == expected
    assert content(ask(chat, UNRELATED, user="ines")) == expected
    stranger, ines = engine.seen
    assert stranger == ines and ines["model"] == BASE and ines["messages"] == UNRELATED and "user" not in ines


def test_where_an_entry_speaks_the_engine_is_asked_with_its_adapter(running, model, engine):
    chat, service = running
    memory = about(model, RELATED, UNRELATED)
    service.users.get("ines").session.memory = memory
    reply = ask(chat, RELATED, user="ines")
    name = engine.seen[-1]["model"]
    assert name in engine.adapters and reply.model == NAME
    assert content(reply) == " ".join(engine.answer(RELATED, 8, engine.adapters[name])) != content(ask(chat, RELATED))
    alone = dataclasses.replace(memory, entries=memory.entries[:1])
    alone.to_lora(service.engine.adapters / "alone")
    assert content(reply) == " ".join(engine.answer(RELATED, 8, str(service.engine.adapters / "alone")))


def test_entries_that_speak_together_are_one_adapter(running, model, engine):
    chat, service = running
    memory = about(model, RELATED, RELATED)
    service.users.get("ines").session.memory = memory
    ask(chat, RELATED, user="ines")
    name = engine.seen[-1]["model"]
    memory.to_lora(service.engine.adapters / "both")
    assert engine.answer(RELATED, 8, engine.adapters[name]) == engine.answer(
        RELATED, 8, str(service.engine.adapters / "both")
    )


def test_a_stream_passes_through_and_is_recorded(running, model, engine):
    chat, service = running
    pieces = list(ask(chat, UNRELATED, user="ines", stream=True))
    expected = " ".join(engine.answer(UNRELATED, 8))
    assert pieces[0].choices[0].delta.content == expected.split()[0]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == expected
    assert {piece.model for piece in pieces} == {NAME} and pieces[-1].choices[0].finish_reason == "length"
    kept = service.users.get("ines").session.messages
    assert [(message["role"], message["content"]) for message in kept] == [
        ("user", UNRELATED[0]["content"]), ("assistant", expected),
    ]  # fmt: skip


def test_what_was_told_is_in_words_only_where_it_is_asked_about(running, engine):
    chat, _ = running
    ask(chat, said("my dog is called Bolt ."), user="ines")
    ask(chat, said("what is my dog called ?"), user="ines")
    assert "Bolt" in engine.seen[-1]["messages"][0]["content"] and len(engine.seen[-1]["messages"]) == 3
    ask(chat, HELLO, user="ines")
    assert engine.seen[-1]["messages"] == HELLO
    ask(chat, said("what is my dog called ?"), user="omar")
    assert engine.seen[-1]["messages"] == said("what is my dog called ?")


def test_what_a_request_may_ask_is_passed_on_and_nothing_else(running, engine):
    chat, _ = running
    ask(chat, HELLO, temperature=0.5, top_p=0.9, seed=3, stop=["x"], max_tokens=100)
    assert engine.seen[-1] == {
        "model": BASE, "messages": HELLO, "stream": False, "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "seed": 3,
        "stop": ["x"],
    }  # fmt: skip
    with pytest.raises(openai.BadRequestError, match=r"lora=.* is not supported"):  # another user's adapter
        ask(chat, HELLO, extra_body={"lora": [{"id": 0, "scale": 1.0}]})


def test_an_engine_that_was_started_again_is_given_the_adapter_again(running, model, engine):
    chat, service = running
    service.users.get("ines").session.memory = about(model, RELATED)
    first = content(ask(chat, RELATED, user="ines"))
    engine.restart()
    assert content(ask(chat, RELATED, user="ines")) == first and engine.adapters


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_what_a_conversation_began_with_is_read_once_and_decides_the_same(family, tmp_path):
    model, prompts = quick(family), Prompts(tokenizer())
    reader = GateReader(model)
    talk = said("where is Marek ?", "Antwerp", UNRELATED[0]["content"], "seven", RELATED[0]["content"])
    memory = about(model, talk, UNRELATED)
    user, other = (User(ChatSession(model, tokenizer(), tmp_path / name)) for name in ("ines", "omar"))
    found, tokens = [], []
    for turns in (1, 3, 5, 3):
        before = reader.tokens
        found.append(reader.speaking(prompts.ids(talk[:turns]), memory, user))
        tokens.append(reader.tokens - before)
    assert found == [GateReader(model).speaking(prompts.ids(talk[:turns]), memory, other) for turns in (1, 3, 5, 3)]
    assert found[2] == [memory.entries[0]]
    whole = [len(prompts.ids(talk[:turns])) for turns in (1, 3, 5, 3)]
    assert (tokens[1] < whole[1] and tokens[2] < whole[2]) == (family == "llama"), "a window cannot be cut"


def test_the_time_that_a_memory_takes_is_said(running, model):
    chat, service = running
    service.users.get("ines").session.memory = about(model, RELATED)
    url = str(chat._client.base_url)
    asked = {"model": NAME, "messages": HELLO}
    assert "Server-Timing" not in httpx.post(f"{url}chat/completions", json=asked).headers
    for messages, parts in ((RELATED, ["words", "gate", "adapter"]), (UNRELATED, ["words", "gate"])):
        body = {"model": NAME, "messages": messages, "user": "ines"}
        timing = httpx.post(f"{url}chat/completions", json=body).headers["Server-Timing"]
        assert [part.partition(";dur=")[0].strip() for part in timing.split(",")] == parts
        assert all(float(part.partition(";dur=")[2]) >= 0 for part in timing.split(","))


# ---------------------------------------------------------------------- an engine that goes away


def test_responses_are_not_forwarded_and_that_is_said(running):
    chat, _ = running
    url = str(chat._client.base_url)
    reply = httpx.post(f"{url}responses", json={"model": NAME, "input": "Hello!"})
    assert reply.status_code == 501 and "/v1/chat/completions" in reply.json()["error"]["message"]


def test_an_engine_that_is_gone_is_an_error_that_says_so_and_nothing_is_lost(model, engine, tmp_path):
    with engine.running() as address:
        connected = gateway(model, tmp_path / "store", address, tmp_path / "adapters")
        url, service = connected.__enter__()
    try:
        chat = client(url).chat.completions
        service.users.get("ines").session.memory = about(model, RELATED)
        for settings in ({}, {"stream": True}, {"messages": RELATED}):
            with pytest.raises(openai.InternalServerError, match=r"cannot be reached.*recorded") as found:
                ask(chat, **{"messages": UNRELATED, "user": "ines", **settings})
            assert found.value.status_code == 503 and found.value.response.headers["Retry-After"]
        assert service.users.get("ines").waiting == 0
        assert service.admission.admit(None)._admission._in_use.total() == 1, "every slot was given back"
    finally:
        connected.__exit__(None, None, None)


def test_an_engine_that_dies_in_the_middle_ends_the_stream_in_words_and_nothing_is_recorded(running, engine):
    chat, service = running
    engine.dies_after = 2
    try:
        written = []
        with pytest.raises(openai.APIError, match="in the middle of its answer"):
            for piece in ask(chat, UNRELATED, user="ines", stream=True):
                written.append(piece.choices[0].delta.content)
        assert len(written) == 2 and service.users.get("ines").waiting == 0
    finally:
        engine.dies_after = None
    ask(chat, UNRELATED, user="ines")
    assert service.users.get("ines").waiting == 2


def test_a_client_that_goes_gives_its_slot_back_and_a_stop_ends_a_stream_in_words(
    model, engine, address, tmp_path, monkeypatch
):
    monkeypatch.setattr(gateway_module, "KEEP_ALIVE", 0.05)
    monkeypatch.setattr(engine, "pause", 0.4)
    with gateway(model, tmp_path / "store", address, tmp_path / "adapters") as (url, service):
        chat = client(url).chat.completions
        stream = ask(chat, UNRELATED, user="ines", stream=True)
        next(iter(stream))
        stream.close()
        until(lambda: service.admission._in_use.total() == 0, 10)
        body = {"model": NAME, "messages": HELLO, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
            lines = reply.iter_lines()
            assert next(line for line in lines if line) == ": keep-alive"
            service.stop()
            assert "The server is being stopped" in "".join(lines)
    assert service.users.get("ines").waiting == 0


def test_what_an_engine_refuses_is_passed_on(running, engine, monkeypatch):
    chat, service = running

    async def refuse(body):
        return httpx.Response(400, json={"error": {"message": "too many tokens"}}, request=httpx.Request("POST", "/"))

    monkeypatch.setattr(service, "ask", refuse)
    with pytest.raises(openai.BadRequestError, match="answers with 400: too many tokens"):
        ask(chat, HELLO)


# ---------------------------------------------------------------------- adapters and memories


def test_a_memory_that_was_accepted_is_loaded_before_anybody_asks_and_erased_with_its_user(
    running, model, engine, monkeypatch
):
    chat, service = running
    user, adapters = service.users.get("ines"), service.engine.adapters
    before = user.session.memory = about(model, RELATED)
    ask(chat, RELATED, user="ines")
    (old,) = engine.adapters
    monkeypatch.setattr(user.session, "settle", lambda: SimpleNamespace(accepted=True))
    user.session.memory = dataclasses.replace(before, entries=remembered(model, 5, 6).entries)
    user.settle()
    assert len(engine.adapters) == 2 and old not in engine.adapters
    assert engine.adapters.keys() == {path.name for path in adapters.iterdir()} - {".versions"}
    url = str(chat._client.base_url).removesuffix("/v1/")
    assert httpx.delete(f"{url}/v1/memories/ines").status_code == 200
    assert engine.adapters == {} and service.engine.users() == set() and list((adapters / ".versions").iterdir()) == []


def test_llama_cpp_is_told_which_of_its_files_speak_and_what_it_has_not_loaded_is_told_in_words(
    model, engine, address, base, tmp_path
):
    engine.files, made = [], about(model, RELATED, UNRELATED)
    silent = [{"id": 0, "scale": 0.0}]  # an empty list would let all adapters speak
    fact = Fact("f1", "my boss is called Fernanda .", "user", None, (0,), "", learned=True)
    entries = (dataclasses.replace(made.entries[0], facts=(fact,)), made.entries[1])
    made = dataclasses.replace(made, base_name=base, entries=entries)
    with gateway(model, tmp_path / "store", address, tmp_path / "adapters", kind="llama.cpp") as (url, service):
        chat = client(url).chat.completions
        service.users.get("ines").session.memory = made
        ask(chat, RELATED, user="ines")
        assert engine.seen[-1]["lora"] == silent and fact.text in engine.seen[-1]["messages"][0]["content"]
        service.engine.update(directory_name("ines"), made)
        engine.files = ["/somewhere/else.gguf", *map(str, sorted((tmp_path / "adapters").rglob("*.gguf")))]
        assert len(engine.files) == 3
        ask(chat, RELATED, user="ines")
        (spoken,) = engine.seen[-1]["lora"]
        assert named(directory_name("ines"), alone(made)[0]) in engine.files[spoken["id"]] and spoken["scale"] == 1.0
        assert engine.seen[-1]["messages"] == RELATED and engine.seen[-1]["model"] == BASE
        ask(chat, HELLO, user="ines")
        assert engine.seen[-1]["lora"] == silent and engine.seen[-1]["messages"] == HELLO
        service.users.erase("ines")
        assert list((tmp_path / "adapters").iterdir()) == []


def test_adapters_that_nobody_has_any_more_go_when_the_gateway_starts(model, engine, address, tmp_path):
    engine.restart()
    ines, omar = directory_name("ines"), directory_name("omar")
    made, store = about(model, RELATED, UNRELATED), tmp_path / "store"
    before = connect(address, tmp_path / "adapters")
    for user in (ines, omar):
        before.update(user, made)
    kept = dataclasses.replace(made, entries=made.entries[1:])
    MemoryStore(store / ines / STORE).save(kept)  # omar was erased, and one entry of ines forgotten
    with gateway(model, store, address, tmp_path / "adapters") as (url, service):
        assert httpx.get(f"{url}/health").is_success  # it has started
        assert service.engine.users() == {ines} and list(engine.adapters) == [named(ines, kept)]


def test_an_engine_of_another_kind_or_at_no_address_is_named(engine, address, tmp_path):
    with pytest.raises(ConfigError, match="cannot be reached"):
        connect("http://127.0.0.1:9", tmp_path)
    with pytest.raises(ConfigError, match="expected the address of a server"):
        connect("localhost:8000", tmp_path)
    engine.owner = "somebody"
    try:
        with pytest.raises(ConfigError, match="signs its models as 'somebody'"):
            connect(address, tmp_path)
        assert connect(f"{address}/v1/", tmp_path, kind="llama.cpp").kind == "llama.cpp"
    finally:
        engine.owner = "vllm"
