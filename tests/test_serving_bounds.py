"""What a server holds of its users is bounded, in memory and on disk, and what is erased or half written is gone."""

import dataclasses
import gc
import time
import weakref
from types import SimpleNamespace

import httpx
import pytest
import torch
from remembered import memory as remembered
from served import HELLO, ask, client, quick, said, served, until, users
from test_agent import CONFIG
from words import OTHER_STORY, STORY

from ttt_retrofit.chat.session import ChatSession
from ttt_retrofit.memory import Memory
from ttt_retrofit.memory.batch import MemoryBatch
from ttt_retrofit.memory.batch_cache import AT_MOST, BatchCache
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving import directories
from ttt_retrofit.serving import users as serving
from ttt_retrofit.serving.app import WrittenAnswer
from ttt_retrofit.serving.batch_generator import GenerationRequest
from ttt_retrofit.serving.directories import directory_name
from ttt_retrofit.serving.user import User
from ttt_retrofit.serving.users import Users
from ttt_retrofit.streaming.cache import TTTCache


@pytest.fixture(scope="module")
def model():
    return quick()


def alive(kind: type) -> list:
    """Objects of a class that are in memory."""
    return [thing for thing in gc.get_objects() if type(thing) is kind]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(serving, "MAX_LOADED", 8)


def stored(model, directory, count):
    """Users who each have a memory, and said a word since."""
    known = users(model, directory)
    for number in range(count):
        name = f"user {number}"
        MemoryStore(directory / directory_name(name) / "memory").save(remembered(model, number))
        known.record(name, known.get(name), HELLO, "there")
    return known


@pytest.mark.slow
def test_users_who_wait_for_their_memory_wait_on_disk(model, tmp_path, small):
    before = [len(alive(kind)) for kind in (User, ChatSession, Memory)]
    known = stored(model, tmp_path, 40)
    for number in range(40):
        known.get(f"user {number}")
    found = [len(alive(kind)) for kind in (User, ChatSession, Memory)]
    assert all(now - then <= 8 for now, then in zip(found, before))  # without a collection: nothing is in a cycle
    waited = []
    while (user := known.next_idle(0)) is not None:
        assert user.waiting == 2 and user.memory is not None
        waited.append(user.session.directory.name)
    assert sorted(waited) == sorted(directory_name(f"user {number}") for number in range(40))
    known.close()


@pytest.mark.slow
def test_a_request_that_was_answered_leaves_nothing_but_its_user(model, tmp_path, small):
    """No state of fast weights, no keys, nothing that was prepared of a memory whose user was let go."""
    for number in range(12):
        MemoryStore(tmp_path / directory_name(f"user {number}") / "memory").save(remembered(model, number))
    kinds = (TTTCache, WrittenAnswer, GenerationRequest, MemoryBatch, User, Memory)
    before = [len(alive(kind)) for kind in kinds]
    with served(tmp_path, model) as (url, _):
        chat = client(url).chat.completions
        for number in range(12):
            assert ask(chat, user=f"user {number}", max_tokens=2).choices
            assert list(ask(chat, user=f"user {number}", max_tokens=2, stream=True))

        def found():
            return [len(alive(kind)) - then for kind, then in zip(kinds, before)]

        until(lambda: found()[:3] == [0, 0, 0], 20)
        assert all(now <= most for now, most in zip(found()[3:], (AT_MOST, 8, 8)))


def test_memories_are_bounded_in_bytes_too(model, tmp_path, monkeypatch):
    known = stored(model, tmp_path, 6)
    known.close()
    size = remembered(model, 0).nbytes
    for bytes_at_most, users_at_most in ((3.5 * size, 3), (0, 1)):
        monkeypatch.setattr(serving, "MAX_LOADED_BYTES", bytes_at_most)
        known = users(model, tmp_path)
        for number in range(6):
            assert known.get(f"user {number}").memory is not None
        assert len(known._recent) == len(known._loaded) == users_at_most
        known.close()


def test_whoever_is_asked_about_stays_the_same_while_others_come(model, tmp_path, small):
    known = users(model, tmp_path)
    ines = known.get("ines")
    known.record("ines", ines, HELLO, "there")
    with ines:
        for number in range(20):
            known.get(f"user {number}")
        assert known.get("ines") is ines
        assert known.next_idle(0.001) is None  # who is being answered is not silent
    time.sleep(0.002)
    assert known.next_idle(0.001) is ines
    known.close()


@pytest.mark.slow
def test_of_who_is_erased_nothing_stays_in_memory(model, tmp_path):
    """A memory that has spoken, alone and in a batch, and another that is being made on top of it."""
    with served(tmp_path, model, idle=0.2) as (url, service):
        chat = client(url).chat.completions
        ask(chat, said(STORY), user="ines")
        until(lambda: service.users.get("ines").waiting == 0)
        user = service.users.get("ines")
        assert ask(chat, user="ines").choices and user.memory is not None
        model.generate(torch.tensor([[5, 6], [7, 8]]), memories=[user.memory, None], max_new_tokens=1)
        user.session.config = dataclasses.replace(CONFIG, epochs=50.0)
        ask(chat, said(OTHER_STORY), user="ines")
        until(user.consolidating)
        entry = user.memory.entries[0]
        gone = [weakref.ref(thing) for thing in (user, user.session, user.memory, entry, entry.lessons[0])]
        gone += [weakref.ref(kept.batch) for kept in model._memory_batches._batches if kept.batch is not None]
        assert len(gone) >= 7
        del user, entry
        assert httpx.delete(f"{url}/v1/memories/ines").status_code == 200

        def collected():
            gc.collect()
            return not any(ref() for ref in gone)

        until(collected, 20)


def test_what_was_prepared_goes_with_its_memory_and_is_bounded(model):
    cache, place = BatchCache(), (torch.device("cpu"), torch.float32)
    memories = [remembered(model, number) for number in range(AT_MOST + 2)]
    for memory in memories:
        cache.put([memory, None], place, None)
    assert len(cache) == AT_MOST
    assert cache.find([memories[-1], None], place) is not None
    assert cache.find([None, memories[-1]], place) is None and cache.find([None, None], place) is None
    assert cache.find([memories[-1], None], (place[0], torch.float16)) is None
    cache.put([memories[-1], memories[-2]], place, None)
    memories.pop()
    del memory
    assert len(cache) == AT_MOST - 2 and cache.find([None, None], place) is None


# ---------------------------------------------------------------------- on disk


def test_versions_are_pruned_when_another_is_accepted(model, tmp_path, monkeypatch):
    """Each holds all entries, so without an end they would grow with the square of the consolidations."""
    store = MemoryStore(tmp_path / directory_name("ines") / "memory")
    for number in range(6):
        store.save(remembered(model, number))
    known = Users(tmp_path, users(model, tmp_path / "other")._open_session, keep_versions=2)
    user = known.get("ines")
    for accepted, left in ((None, 6), (False, 6), (True, 2)):
        report = None if accepted is None else SimpleNamespace(accepted=accepted)
        monkeypatch.setattr(user.session, "settle", lambda: report)  # noqa: B023
        assert user.settle() is report and len(store.versions()) == left
    assert store.rollback().names() == ["entry4"]
    known.close()


def test_pruning_keeps_what_rollback_goes_back_to(model, tmp_path):
    store = MemoryStore(tmp_path)
    for number in range(4):
        store.save(remembered(model, number))
    store.rollback()
    store.rollback()
    store.save(remembered(model, 4))  # 5, built on 2, built on 1
    assert store.prune(keep=2) == [1, 3]
    assert store.versions() == [2, 4, 5] and store.rollback().names() == ["entry1"]
    assert store.prune(keep=1) == [4] and store.load().names() == ["entry1"]


def test_a_version_half_deleted_is_none_and_goes_with_the_next(model, tmp_path, monkeypatch):
    store = MemoryStore(tmp_path)
    for number in range(4):
        store.save(remembered(model, number))

    def killed(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        store.prune(keep=1)
    monkeypatch.undo()
    assert store.versions() == [4] and store.load().names() == ["entry3"] and store.rollback() is None
    store.save(remembered(model, 5))
    store.prune(keep=1)
    assert [path.name for path in (tmp_path / "versions").iterdir()] == ["000005"]


LEFT = (
    ".turns.json.1.tmp",
    ".seen.json.77.tmp",
    "memory/.current.json.2.tmp",
    "memory/versions/000001/.memory.json.3.tmp",
)


def test_what_kills_left_half_written_is_deleted_at_the_next_start(model, tmp_path):
    MemoryStore(tmp_path / directory_name("ines") / "memory").save(remembered(model, 1))
    known = users(model, tmp_path)
    known.record("ines", known.get("ines"), HELLO, "there")
    known.close()
    for name in LEFT:
        (tmp_path / directory_name("ines") / name).write_text("my secret")
    known = users(model, tmp_path)
    assert not any((tmp_path / directory_name("ines") / name).exists() for name in LEFT)
    assert known.get("ines").waiting == 2 and known.get("ines").memory.names() == ["entry1"]
    known.close()


@pytest.mark.parametrize("outside", [False, True])
def test_an_erasure_that_was_killed_is_ended_at_the_next_start_and_the_user_is_gone(
    model, tmp_path, monkeypatch, outside
):
    known = users(model, tmp_path)
    for name in ("ines", "otto"):
        known.record(name, known.get(name), HELLO, "there")
    remove, here = directories.remove, tmp_path / directory_name("ines")

    def killed(path):
        if path.exists():
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(directories, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        known.erase("ines")
    monkeypatch.undo()
    known.close()
    assert not here.exists() and [
        path for path in tmp_path.rglob("turns.json") if path.parent.name != directory_name("otto")
    ]
    if outside:
        directories.erase_stored(tmp_path, "nobody")
    else:
        users(model, tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [directory_name("otto")]


def test_a_directory_of_somebody_else_in_a_store_is_left_alone(model, tmp_path):
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / ".mine.tmp").write_text("mine")
    known = Users(tmp_path, lambda path: None)
    assert known.stored() == [] and (tmp_path / "backup" / ".mine.tmp").exists()
    known.close()
