"""The command line as a program: how fast it helps, how it ends, what an interrupt leaves behind."""

import json
import os
import signal
import subprocess
import sys

import httpx
import pytest
from commands import document, fails
from openai import OpenAI
from words import STORY

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "ttt_retrofit_cli"]
SMALL = ["--window", "16", "--set", "chunk_size=8", "--set", "sink_tokens=2"]


def run(*arguments, code=0):
    done = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def test_help_answers_before_torch_is_loaded():
    assert "consolidate" in run("--help").stdout
    seen = "import sys; from typer.testing import CliRunner; from ttt_retrofit_cli import app; "
    seen += "CliRunner().invoke(app, ['--help']); print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_stdout_is_one_document_and_everything_else_goes_to_stderr(base, story):
    done = run("read", base, story, "--json", *SMALL)
    assert json.loads(done.stdout)["tokens_seen"] > 0 and done.stdout.count("\n") == 1


def test_errors_are_one_line_and_exit_with_1(tmp_path):
    done = run("info", tmp_path / "nowhere", code=1)
    assert done.stdout == "" and done.stderr.startswith("error: There is no model directory")
    assert done.stderr.count("\n") == 1


def test_bad_options_exit_with_2():
    assert "Traceback" not in run("read", "--nothing", code=2).stderr


def test_an_interrupt_leaves_no_state_and_exits_with_130(base, tmp_path):
    long, state = tmp_path / "long.txt", tmp_path / "state.safetensors"
    long.write_text(f"{STORY} " * 2000)
    arguments = ["read", base, str(long), "--save", str(state), *SMALL]
    environment = {**os.environ, "TERM": "xterm", "FORCE_COLOR": "1"}  # a bar is drawn once reading has begun
    process = subprocess.Popen(
        [*COMMAND, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in the background of a shell
    )  # fmt: skip
    assert process.stderr is not None
    seen = b""
    while b"/" not in seen:  # tokens read of all tokens
        seen += process.stderr.read1(1000)
    process.send_signal(signal.SIGINT)
    out, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and out == b""
    assert rest.rstrip().endswith(b"Stopped. No state was written.") and b"Traceback" not in rest
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]


def started(*arguments, **environment):
    """A verb that runs until it is interrupted, and the document that it begins with."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--json", *SMALL], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment}, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def interrupted(process):
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped." in rest and "Traceback" not in rest


def test_a_server_answers_until_it_is_interrupted_and_then_its_users_can_be_erased(base, tmp_path):
    store = tmp_path / "store"
    process, said = started("serve", base, "--store", store, "--port", 0, TTT_RETROFIT_API_KEY="key")
    client = OpenAI(base_url=said["url"], api_key="key", max_retries=5)
    asked = [{"role": "user", "content": "where is Marek ?"}]
    assert client.models.list().data[0].id == said["model"] == "base"
    pieces = client.chat.completions.create(model="base", messages=asked, user="ines", stream=True, max_tokens=4)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert "A server is using" in fails("memory", "erase", store, "ines", "--yes")
    port = said["url"].rpartition(":")[2].removesuffix("/v1")
    assert "Address already in use" in fails("serve", base, "--port", port)
    interrupted(process)
    assert document("memory", "erase", store, "ines", "--yes")["user"] == "ines"
    assert "Nothing is stored" in fails("memory", "erase", store, "ines", "--yes")
    assert [path.name for path in store.iterdir()] == ["serving.lock"]


def test_a_server_that_strangers_could_reach_wants_a_key(base):
    assert "no API key is set" in fails("serve", base, "--host", "0.0.0.0", "--port", 0)


def test_a_page_is_shown_until_it_is_interrupted(base, tmp_path):
    process, said = started("chat", base, "--page", "--memory", tmp_path / "ines")
    assert "ttt-retrofit" in httpx.get(said["url"], timeout=60).text
    interrupted(process)
