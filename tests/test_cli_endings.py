"""How a verb ends: by signals, by a reader that goes, on streams that are no UTF-8; and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from commands import document, fails
from test_cli_process import COMMAND, SMALL
from words import STORY

from ttt_retrofit_cli import temporary

pytestmark = pytest.mark.slow

ASKED = "where is Marek ?"


def chatting(base, folder):
    """A chat that keeps nothing, after its first answer."""
    process = subprocess.Popen(
        [*COMMAND, "chat", base, "--max-new-tokens", "2", *SMALL], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)},
        preexec_fn=lambda: [signal.signal(n, signal.SIG_DFL) for n in (signal.SIGTERM, signal.SIGHUP)],
    )  # fmt: skip
    process.stdin.write(f"{ASKED}\n")
    process.stdin.flush()
    seen = ""
    while seen.count("you>") < 2:
        seen += process.stdout.read(1)
    return process


def words_in(folder):
    return [path for path in folder.rglob("*.json") if "Marek" in path.read_text()]


@pytest.mark.parametrize("number", [signal.SIGTERM])  # a server gets the other one; one handler takes both
def test_nothing_is_kept_after_a_signal_where_nothing_was_to_be_kept(number, base, tmp_path):
    process = chatting(base, tmp_path)
    assert words_in(tmp_path)
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Nothing is kept when you leave" in rest and rest.endswith("Stopped. Nothing of what was said is kept.\n")
    assert list(tmp_path.glob(f"{temporary.PREFIX}*")) == []


def test_what_a_killed_process_left_goes_when_the_next_begins(base, tmp_path, monkeypatch):
    monkeypatch.setattr(temporary, "gettempdir", lambda: str(tmp_path))
    (tmp_path / f"{temporary.PREFIX}young").mkdir()  # its process is about to lock it
    process = chatting(base, tmp_path)
    temporary.remove_abandoned()
    assert words_in(tmp_path)  # of one that lives
    process.kill()
    process.communicate(timeout=60)
    assert words_in(tmp_path)
    temporary.remove_abandoned()
    assert [path.name for path in tmp_path.iterdir()] == [f"{temporary.PREFIX}young"]


@pytest.mark.parametrize("number", [signal.SIGHUP])
def test_a_server_that_keeps_nothing_leaves_nothing(number, base, tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "serve", base, "--port", "0", "--json", *SMALL], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # tests that nohup runs ignore it, and so would this
    )  # fmt: skip
    url = json.loads(process.stdout.readline())["url"].removesuffix("/v1")
    assert httpx.Client(transport=httpx.HTTPTransport(retries=8)).get(f"{url}/health", timeout=60).is_success
    assert list(tmp_path.glob(f"{temporary.PREFIX}*"))
    process.send_signal(number)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in rest
    assert list(tmp_path.glob(f"{temporary.PREFIX}*")) == []


def test_a_reader_that_goes_ends_a_verb_quietly(base):
    for verb in (["info", base, "--json"], ["info", base]):
        process = subprocess.Popen([*COMMAND, *verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait(60) == 1


@pytest.mark.parametrize("as_json", [["--json"], []])
def test_any_name_is_shown_on_a_stream_that_is_not_utf8(as_json, base, tmp_path):
    odd = tmp_path / "Bragança.txt"
    odd.write_text(STORY, encoding="utf-8")
    arguments = [*COMMAND, "eval", base, odd, "--tokens", "40", *SMALL, *as_json]
    strict = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(arguments, capture_output=True, env=strict, timeout=120)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    if as_json:
        assert json.loads(done.stdout.decode("ascii"))["files"][0]["file"] == str(odd)
    else:
        assert r"Bragan\xe7a.txt" in done.stdout.decode("ascii").replace("\n", "")


def test_words_and_memory_of_a_chat_are_erased_by_its_directory_alone(base, tmp_path):
    user = tmp_path / "ines"
    document("chat", base, "--memory", user, "--max-new-tokens", "2", *SMALL, stdin=f"{ASKED}\n")
    assert words_in(user)
    assert "memory erase" in fails("memory", "erase", user, "ines") and words_in(user)
    assert "several users" in fails("memory", "erase", tmp_path)
    assert document("memory", "erase", user, "--yes") == {"store": str(user), "user": None}
    assert words_in(user) == []


def test_libraries_keep_their_remarks_to_themselves():
    script = (
        "import logging, warnings\nfrom ttt_retrofit_cli.frame import verb_frame\n"
        "with verb_frame(False):\n"
        "    logging.getLogger('kernels').warning('kernels-community'); warnings.warn('kernels-community')\n"
        "    import transformers; transformers.logging.get_logger('transformers').warning('kernels-community')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == ""
