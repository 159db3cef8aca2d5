"""A server on a Ray cluster of this machine: users keep their memories, whatever is killed."""

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
    session = {"config": CONFIG, "questions": QUESTIONS}
    shared = SharedStore(partial(load, notes), store, idle=0.5, session=session)
    listening, at = listen("127.0.0.1", 0)
    listening.close()
    limits = Limits(max_concurrent=1, max_new_tokens=100_000)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**checks, "RAY_worker_niceness": "0", "PYTHONPATH": paths}.items():
            patch.setenv(name, value)
        with deployed(Serving(shared, NAME, KEY, limits=limits), "127.0.0.1", int(at.split(":")[-1][:-3]), SHARE):
            yield at.removesuffix("/v1")


@pytest.fixture
def chat(url):
    return client(url, KEY).with_options(max_retries=8).chat.completions


def stored(url, user, what=""):
    """What a server says of a user."""
    return httpx.get(f"{url}/v1/memories/{user}{what}", headers={"Authorization": f"Bearer {KEY}"}).json()


def test_what_a_user_tells_becomes_memory_in_a_task_and_is_nobody_else_s(url, store, chat):
    before = ask(chat, user="otto").choices[0].message.content
    ask(chat, said(STORY), user="ines")
    until(lambda: (store / directory_name("ines") / "memory" / "current.json").exists())
    assert stored(url, "ines")["entries"] and stored(url, "ines")["messages_waiting"] == 0
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
    """Its answer would take minutes, and only one is written at a time: another one waits until its place is free."""
    body = {"model": NAME, "messages": HELLO, "stream": True, "max_tokens": 100_000, "temperature": 0}
    headers = {"Authorization": f"Bearer {KEY}"}
    with ThreadPoolExecutor(1) as pool:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
            next(reply.iter_text())
            waiting = pool.submit(ask, chat)
            time.sleep(1)
            assert not waiting.done()
        assert waiting.result(30).choices


def test_a_killed_replica_is_replaced_and_its_user_keeps_all(url, notes, chat):
    told = ["where is Marek ?", "what is blue ?"]
    ask(chat, said(told[0]), user="mara")
    killed = {int(path.name) for path in notes.iterdir()}
    for process in killed:
        os.kill(process, signal.SIGKILL)
        (notes / str(process)).unlink()
    ask(chat, said(told[1]), user="mara")
    assert {int(path.name) for path in notes.iterdir()} - killed, "another process has answered"
    kept = [message["content"] for message in stored(url, "mara", "/messages")["data"]]  # or a memory by now:
    kept += [fact["text"] for fact in stored(url, "mara", "/facts?status=all")["data"]]
    assert set(told) <= set(kept)
