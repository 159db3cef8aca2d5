"""Several sessions, savers and readers of one directory; full disks; what killed writes leave behind."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import pytest
from converted import converted, speaker
from remembered import memory
from words import STORY, tokenizer

from ttt_retrofit import ChatSession, InputError, Memory
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.util.files import read_list, remove_unfinished, staged
from ttt_retrofit.util.messages import is_message

SPAWN = multiprocessing.get_context("spawn")


class Silent:
    """A model that is never asked."""

    def check_memory(self, memory) -> None:
        pass


def session(directory, model=None) -> ChatSession:
    return ChatSession(model or Silent(), tokenizer(), directory)


def said(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"note {number} of {os.getpid()}", "date": "2026-03-09"}


def _note(directory: str, out: str) -> None:
    """Note again and again, from a new session where another one wrote; tell what was acknowledged."""
    acknowledged, chat = [], session(directory)
    for number in range(25):
        while True:
            try:
                chat.note(said(number))
                break
            except InputError:
                chat = session(directory)
        acknowledged.append(said(number)["content"])
    Path(out).write_text("\n".join(acknowledged))


@pytest.mark.slow
def test_no_acknowledged_note_of_two_processes_is_lost(tmp_path):
    outs = [tmp_path / "one.txt", tmp_path / "two.txt"]
    processes = [SPAWN.Process(target=_note, args=(str(tmp_path / "store"), str(out))) for out in outs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    kept = [message["content"] for message in session(tmp_path / "store").messages]
    acknowledged = [line for out in outs for line in out.read_text().splitlines()]
    assert len(acknowledged) == 50 and sorted(kept) == sorted(acknowledged)


def test_a_session_that_was_overtaken_acknowledges_nothing(tmp_path):
    one, other = session(tmp_path), session(tmp_path)
    one.note(said(1))
    with pytest.raises(InputError, match="another session"):
        other.note(said(2))
    assert other.messages == [] and session(tmp_path).messages == [said(1)]


@pytest.fixture
def full_disk():
    """Within it, no file can be written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Full:
        def __enter__(self):
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))

        def __exit__(self, *_):
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield Full()
    signal.signal(signal.SIGXFSZ, before)


def test_a_turn_that_could_not_be_written_is_said_once(tmp_path, full_disk):
    chat = session(tmp_path)
    for _ in range(3):
        with full_disk, pytest.raises(OSError, match=r"turns\.json"):
            chat.note(said(1))
        assert chat.messages == []
    chat.note(said(1))
    assert chat.messages == session(tmp_path).messages == [said(1)]


def test_an_answer_that_could_not_be_written_is_not_part_of_the_conversation(tmp_path, full_disk):
    chat = session(tmp_path, speaker())
    with full_disk, pytest.raises(OSError, match=r"turns\.json"):
        chat.send("where is Marek ?", max_new_tokens=4, do_sample=False)
    assert chat.messages == []
    chat.send("where is Marek ?", max_new_tokens=4, do_sample=False)
    assert len(chat.messages) == 2 and session(tmp_path).messages == chat.messages


@pytest.mark.parametrize("failing", ["forget", "rollback", "settle"])
def test_what_is_remembered_changes_after_the_disk(tmp_path, full_disk, failing):
    model = converted()
    MemoryStore(tmp_path / "memory").save(memory(model, 1))
    MemoryStore(tmp_path / "memory").save(memory(model, 1, 2))
    chat = session(tmp_path)
    chat.note(said(1), said(2))
    chat._in_job = 1
    calls = {
        "forget": lambda: chat.forget("entry2"),
        "rollback": chat.rollback,
        "settle": lambda: chat._commit(memory(model, 1, 2, 3)),
    }
    with full_disk, pytest.raises(OSError, match="too large"):
        calls[failing]()
    for whole in (chat, session(tmp_path)):
        assert whole.memory.names() == ["entry1", "entry2"] and whole.messages == [said(1), said(2)]
    calls[failing]()
    expected = {"forget": ["entry1"], "rollback": ["entry1"], "settle": ["entry1", "entry2", "entry3"]}[failing]
    assert chat.memory.names() == session(tmp_path).memory.names() == expected
    assert chat.messages == session(tmp_path).messages == [said(1), said(2)][failing == "settle" :]


def test_everything_can_be_erased_on_a_full_disk(tmp_path, full_disk):
    MemoryStore(tmp_path / "memory").save(memory(converted(), 1))
    chat = session(tmp_path)
    chat.note(said(1))
    with full_disk:
        chat.erase()
    assert chat.messages == [] and chat.memory is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"]
    chat.note(said(2))
    assert session(tmp_path).messages == [said(2)]


def test_what_killed_writes_left_is_gone_after_the_next_start_and_after_erasing(tmp_path):
    MemoryStore(tmp_path / "memory").save(memory(converted(), 1))
    chat = session(tmp_path)
    names = (".turns.json.1.tmp", ".turns.json.ab12cd.tmp", ".seen.json.99999.tmp", ".tmpXy12Zq")
    places = [tmp_path, tmp_path / "memory", tmp_path / "memory" / "versions" / "000001", tmp_path / "work" / "key"]
    for again in (lambda: session(tmp_path), chat.erase):
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                (place / name).write_text(STORY)
        again()
        left = [path for path in tmp_path.rglob("*") if path.is_file() and STORY.encode() in path.read_bytes()]
        assert left == []


def test_a_write_at_work_is_no_left_over(tmp_path):
    with staged(tmp_path / "x", [b"x"]):
        remove_unfinished(tmp_path)
        assert not (tmp_path / "x").exists() and len(list(tmp_path.iterdir())) == 1
    assert (tmp_path / "x").read_bytes() == b"x"


def _save(directory: str, seed: int) -> None:
    made = [memory(converted(), seed), memory(converted(), seed + 1)]
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        for one in made:
            one.save(directory)


@pytest.mark.slow
def test_readers_beside_two_savers_get_one_memory_or_another_and_whole(tmp_path):
    memory(converted(), 1).save(tmp_path)
    processes = [SPAWN.Process(target=_save, args=(str(tmp_path), seed)) for seed in (1, 3)]
    for process in processes:
        process.start()
    found = set()
    while any(process.is_alive() for process in processes):
        found |= set(Memory.load(tmp_path).names())
    assert all(process.exitcode == 0 for process in processes)
    assert found <= {"entry1", "entry2", "entry3", "entry4"} and len(found) > 1
    assert len(Memory.load(tmp_path).names()) == 1 and len(list(tmp_path.glob("*.safetensors"))) == 1


def test_a_killed_write_leaves_the_turns_before(tmp_path):
    chat = session(tmp_path)
    chat.note(said(1))
    process = os.fork()
    if not process:  # dies while it writes
        with staged(tmp_path / "turns.json", [b"half"]):
            os._exit(0)
    os.waitpid(process, 0)
    assert read_list(tmp_path / "turns.json", "messages", is_message, "") == [said(1)]
    assert list(tmp_path.glob(".*.tmp"))
    session(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
