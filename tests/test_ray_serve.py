"""A server on a Ray cluster of this machine: users keep their memories, whatever is killed."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import httpx
import openai
import pytest
from served import HELLO, NAME, ask, client, quick, said, until
from test_agent import CONFIG
from words import QUESTIONS, STORY, tokenizer

pytest.importorskip("ray")

from ttt_retrofit import InputError
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.directories import directory_name, lock_store
from ttt_retrofit.serving.ray_consolidation import SharedStore
from ttt_retrofit.serving.ray_serve import Serving, deployed
from ttt_retrofit.serving.resources import Resources
from ttt_retrofit.serving.server import listen

pytestmark = pytest.mark.slow

KEY = "secret"
SHARE = Resources(replica_cpus=0.5, task_cpus=0.5, cpus=1)


def load(notes):
    """What every process loads; replicas and workers note that they are there."""
    (notes / str(os.getpid())).touch()
    return quick(), tokenizer()


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def url(store, notes):
    # On a busy machine, that one is slow does not mean that it is dead.
    checks = dict.fromkeys(("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"), "60")
    # Replicas and workers import what loads the model from here.
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    os.environ |= {**checks, "RAY_worker_niceness": "0", "PYTHONPATH": paths}
    session = {"config": CONFIG, "questions": QUESTIONS}
    shared = SharedStore(partial(load, notes), store, idle=0.5, session=session)
    listening, at = listen("127.0.0.1", 0)
    listening.close()
    limits = Limits(max_concurrent=1, max_new_tokens=100_000)
    with deployed(Serving(shared, NAME, KEY, limits=limits), "127.0.0.1", int(at.split(":")[-1][:-3]), SHARE):
        yield at.removesuffix("/v1")


@pytest.fixture
def chat(url):
    return client(url, KEY).with_options(max_retries=8).chat.completions


def test_what_a_user_tells_becomes_memory_in_a_task_and_is_nobody_else_s(url, store, chat):
    before = ask(chat, user="otto").choices[0].message.content
    ask(chat, said(STORY), user="ines")
    until(lambda: (store / directory_name("ines") / "memory" / "current.json").exists())
    state = httpx.get(f"{url}/v1/memories/ines", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert state["entries"] and state["messages_waiting"] == 0
    assert ask(chat, user="ines").choices[0].message.content != before
    assert ask(chat, user="eva").choices[0].message.content == before
    with pytest.raises(InputError, match="A server is using"):
        lock_store(store)


def test_errors_and_streams_pass_the_front(url, chat):
    streamed = ask(chat, user="otto", stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in streamed)
    with pytest.raises(openai.BadRequestError, match="logprobs"):
        ask(chat, logprobs=True)
    with pytest.raises(openai.AuthenticationError):
        ask(client(url, "wrong").chat.completions)


def test_a_client_that_disconnects_is_given_up(url, chat):
    body = {"model": NAME, "messages": HELLO, "stream": True, "max_tokens": 100_000}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
        next(reply.iter_text())
    began = time.monotonic()
    assert ask(chat).choices  # one answer at a time: its place is free again
    assert time.monotonic() - began < 30


def test_a_killed_replica_is_replaced_and_its_user_keeps_all(store, notes, chat):
    ask(chat, said("where is Marek ?"), user="mara")
    for path in notes.iterdir():
        os.kill(int(path.name), signal.SIGKILL)
        path.unlink()
    ask(chat, said("what is blue ?"), user="mara")
    until(lambda: not (store / directory_name("mara") / "turns.json").exists() or any(notes.iterdir()))
