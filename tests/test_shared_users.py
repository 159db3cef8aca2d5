"""Users of a store that several processes serve: each knows what another wrote, and works for one user at a time."""

import asyncio
import dataclasses
import os
import threading
from contextlib import aclosing, contextmanager

import pytest
from commands import fails
from filelock import FileLock
from remembered import memory as remembered
from served import quick, said, until
from starlette.requests import Request
from starlette.responses import JSONResponse
from words import tokenizer

from ttt_retrofit import ChatSession, ConfigError
from ttt_retrofit.chat.fact_change import FactChange
from ttt_retrofit.consolidation.config import Budget
from ttt_retrofit.consolidation.control import Control
from ttt_retrofit.consolidation.job import BackgroundJob
from ttt_retrofit.memory.report import Report
from ttt_retrofit.serving.changes import TooManyChanges
from ttt_retrofit.serving.directories import directory_name
from ttt_retrofit.serving.pending import PendingUsers
from ttt_retrofit.serving.queued import WORKING, QueuedChanges, work_for
from ttt_retrofit.serving.relay import directory_of_request, passed_on, replies
from ttt_retrofit.serving.resources import Resources
from ttt_retrofit.serving.shared_users import SharedUsers

INES = directory_name("ines")
REPORT = Report(True, "it was accepted.", None, None, 0, None, None, 0.0, 0.0)


@pytest.fixture(scope="module")
def model():
    return quick()


@pytest.fixture
def process(model, tmp_path):
    """Makes the users as another process has them."""

    def made(idle=0.0):
        return SharedUsers(
            tmp_path, lambda path: ChatSession(model, tokenizer(), path, keep_turns=0, note_tokens=0), idle=idle
        )

    return made


@pytest.fixture
def consolidation(model, monkeypatch):
    """Consolidations make the same memory at once, or when they may; `begun` is set while one waits."""
    may, begun = threading.Event(), threading.Event()
    may.set()
    made = dataclasses.replace(remembered(model, 1), report=REPORT)

    def consolidate(messages, **settings):
        control = Control(Budget())

        def work():
            begun.set()
            while not may.wait(0.01):
                control.check()
            return made

        return BackgroundJob(work, control, "consolidation")

    monkeypatch.setattr(model, "consolidate", consolidate)
    return may, begun


@contextmanager
def working(users):
    """Work for ines in another thread."""
    thread = threading.Thread(target=work_for, args=(users, INES))
    thread.start()
    yield
    thread.join(30)
    assert not thread.is_alive()


def tell(users, text="where is Marek ?", identity="ines"):
    users.record(identity, users.get(identity), said(text), "Otto")


def texts(users):
    return [message["content"] for message in users.get("ines").session.messages]


def test_what_one_process_records_the_others_know_and_nothing_is_written_over(process):
    one, other = process(), process()
    assert one.get("ines") is one.get("ines")
    tell(one)
    assert texts(other) == ["where is Marek ?", "Otto"]
    loaded = other.get("ines")
    tell(one, "who is old ?")
    tell(other, "what is blue ?")  # by a process that had loaded an earlier state
    assert texts(one) == ["where is Marek ?", "Otto", "who is old ?", "Otto", "what is blue ?", "Otto"]
    assert other.get("ines") is not loaded
    tell(one, "what is blue ?")  # sent again to another process: a turn that is recorded
    assert len(texts(other)) == 6


def test_what_is_told_while_a_memory_is_made_stays_and_waits(process, consolidation):
    may, begun = consolidation
    one, other = process(), process()
    tell(one)
    may.clear()
    with working(other):
        until(begun.is_set)
        tell(one, "what is blue ?")
        may.set()
    assert one.get("ines").memory.names() and texts(one) == ["what is blue ?", "Otto"]
    assert one.pending.due() == [INES]
    work_for(other, INES)
    assert texts(one) == [] and one.pending.due() == []


def test_one_process_at_a_time_works_for_a_user_and_a_killed_one_holds_nobody(process, consolidation, tmp_path):
    users = process()
    tell(users)
    with FileLock(tmp_path / INES / WORKING):
        assert work_for(users, INES) == [] and users.get("ines").memory is None and users.pending.due() == [INES]
    if (child := os.fork()) == 0:
        FileLock(tmp_path / INES / WORKING).acquire()
        os._exit(0)  # as a kill: nothing is released by hand
    os.waitpid(child, 0)
    work_for(users, INES)
    assert users.get("ines").memory.names() and users.pending.due() == []


def test_of_a_user_who_is_erased_during_the_work_nothing_comes_back(process, consolidation, tmp_path):
    may, begun = consolidation
    one, other = process(), process()
    tell(one)
    request = one.get("ines")
    may.clear()
    with working(other):
        until(begun.is_set)
        one.erase("ines")
    one.record("ines", request, said("who is old ?"), "Otto")  # of a request that came before
    assert not (tmp_path / INES).exists()
    work_for(other, INES)
    assert other.pending.due() == [] and not (tmp_path / INES).exists()


def test_a_consolidation_that_fails_is_tried_again_when_more_is_said(process, model, monkeypatch):
    users = process()
    tell(users)
    monkeypatch.setattr(model, "consolidate", lambda *_, **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        work_for(users, INES)
    assert users.pending.due() == [] and len(texts(users)) == 2
    tell(users, "who is old ?")
    assert users.pending.due() == [INES]


def test_changes_of_facts_are_asked_for_in_one_process_and_done_in_another(process, model, monkeypatch):
    one, other = process(idle=60.0), process(idle=60.0)
    tell(one)
    assert one.pending.due() == []  # they are talking
    ended = []
    changes = QueuedChanges(one, lambda name: [change for change in ended if change.user == name])
    asked = changes.request("ines", one.get("ines"), FactChange((), "Marek plays chess ."), most=1)
    with pytest.raises(TooManyChanges):
        changes.request("ines", one.get("ines"), FactChange((), "Otto is old ."), most=1)
    assert [change.status for change in changes.of("ines")] == ["waiting"] and one.pending.due() == [INES]
    made = dataclasses.replace(remembered(model, 1), report=REPORT)
    monkeypatch.setattr(model, "add_fact", lambda *_, **settings: made)
    ended += work_for(other, INES)
    assert [(change.id, change.status) for change in changes.of("ines")] == [(asked.id, "accepted")]
    assert one.get("ines").memory.names() and len(texts(one)) == 2 and one.pending.due() == []
    assert one.pending.stamp(INES) is not None  # until they fall silent


def test_who_is_due_first_comes_first_and_talk_puts_off_only_who_is_not_due(tmp_path):
    pending = PendingUsers(tmp_path)
    pending.add("talking", 60.0)
    pending.add("late", 0.0)
    pending.add("early", -5.0)
    assert PendingUsers(tmp_path).due() == ["early", "late"]
    stamp = pending.stamp("late")
    pending.add("late", 60.0)
    assert pending.due() == ["early", "late"]
    pending.done("late", stamp)  # something was added since
    pending.done("early", pending.stamp("early"), 60.0)
    assert pending.due() == ["late"] and pending.stamp("early") is not None
    pending.done("late", pending.stamp("late"))
    assert pending.due() == [] and pending.stamp("late") is None


# ---------------------------------------------------------------------- a request that is passed on


def request(path="/v1/chat/completions", **headers):
    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": named})


def test_a_request_is_routed_by_its_user_and_one_that_names_none_goes_anywhere():
    assert directory_of_request(request(), b'{"user": "ines"}', None) == INES
    assert directory_of_request(request(), b'{"safety_identifier": "ines"}', None) == INES
    assert directory_of_request(request(who="ines"), b'{"model": "tiny"}', "who") == INES
    assert directory_of_request(request("/v1/memories/a%2Fb/facts"), b"", None) == directory_name("a/b")
    for body in (b"", b"{}", b"[", b"[" * 100_000, b"[1]", b'{"user": 1}', b'{"user": "."}'):
        assert directory_of_request(request(), body, None) == ""


def test_a_reply_is_passed_on_message_by_message_and_given_up_with_who_reads_it():
    ended = []

    async def app(scope, receive, send):
        body = (await receive())["body"].decode()
        await JSONResponse({"path": scope["path"], "body": body})(scope, receive, send)
        try:
            await receive()
        finally:
            ended.append(True)

    async def first(count):
        scope = passed_on({**request().scope, "app": app})
        async with aclosing(replies(app, scope, b"hello")) as messages:
            return [await anext(messages) for _ in range(count)]

    start, body = asyncio.run(first(2))
    assert start["status"] == 200 and body["body"] == b'{"path":"/v1/chat/completions","body":"hello"}' and ended


def test_replicas_leave_room_for_a_consolidation():
    Resources(replicas=3, task_cpus=1).check(4, 0)
    with pytest.raises(ConfigError, match="4 CPUs and 2 GPUs; the machine has 4 and 1"):
        Resources(replicas=2, replica_cpus=1.5, task_gpus=2).check(4, 1)


def test_a_cluster_needs_the_extra_and_a_store(tmp_path, monkeypatch):
    there = {"starlette", "uvicorn", "pydantic"}
    monkeypatch.setattr("ttt_retrofit_cli.serve.find_spec", lambda name: name if name in there else None)
    assert "serve --ray needs ray. Install it with: pip install 'ttt-retrofit[ray]'" in fails("serve", "x", "--ray")
    there.add("ray")
    assert "--ray needs --store DIR" in fails("serve", "x", "--ray")
