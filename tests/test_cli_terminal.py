"""`chat` at a real terminal: lines are edited, Ctrl-C stops an answer and not the chat, remarks have lines."""

import contextlib
import os
import re
import select
import signal
import sys
import time

import pytest
from test_cli_process import COMMAND, SMALL
from words import STORY

pty = pytest.importorskip("pty")
PROMPT = "you> "
UP = "\x1b[A"
CTRL_C = "\x03"


class Terminal:
    """A chat on a terminal of its own."""

    def __init__(self, *arguments):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.execve(COMMAND[0], [*COMMAND, "chat", *map(str, arguments)], {**os.environ, "TERM": "xterm"})
        self.seen = ""

    def until(self, pattern, seconds=120):
        """What has been shown since the last call, up to the end of that."""
        end = time.monotonic() + seconds
        while (found := re.search(pattern, self.seen)) is None:
            assert time.monotonic() < end, self.seen
            if select.select([self.file], [], [], 1.0)[0]:
                self.seen += os.read(self.file, 4096).decode(errors="replace")
        shown, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return shown

    def type(self, text):
        os.write(self.file, text.encode())

    def interrupt_prompt(self):
        """Ctrl-C at the prompt. Readline notes one that comes before it waits for keys, and sees it at the next key."""
        self.until(PROMPT)
        time.sleep(0.5)
        self.type(CTRL_C)

    def status(self):
        self.drain()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it has ended
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def drain(self):
        try:
            while data := os.read(self.file, 4096):
                self.seen += data.decode(errors="replace")
        except OSError:  # the terminal of a process that has ended
            pass


def test_a_line_is_edited_and_those_before_come_back(base):
    with Terminal(base, "--max-new-tokens", "2", *SMALL) as chat:
        chat.until(PROMPT)
        chat.type("/helq\x7fp\r")
        chat.until("/rollback")
        chat.until(PROMPT)
        chat.type(f"{UP}\r")
        chat.until("/rollback")
        chat.until(PROMPT)
        chat.type("\x04")
        assert chat.status() == 0


def test_an_interrupt_stops_the_answer_and_not_the_chat(base, tmp_path):
    with Terminal(base, "--memory", tmp_path, "--max-new-tokens", "3000", *SMALL) as chat:
        chat.until(PROMPT)
        chat.type("where is Marek ?\r")
        chat.until(r"\w+ \w+ \w+ \w+ \w+ \w+ ")  # of the answer
        chat.type(CTRL_C)
        chat.until(r"\(stopped; this question and its answer are not kept\)")
        chat.until(PROMPT)
        chat.type("/memory\r")
        assert "0 messages are still in words" in chat.until("in words")
        chat.interrupt_prompt()
        chat.until("Ctrl-C again")
        chat.interrupt_prompt()
        chat.until("Stopped. What was said is kept")
        assert chat.status() == 130


def test_a_remark_takes_the_place_of_the_prompt_and_waits_while_a_line_is_typed(monkeypatch, capsys):
    from rich.console import Console

    from ttt_retrofit_cli.output import Output
    from ttt_retrofit_cli.terminal import Terminal

    out = Output(as_json=False)
    out.console = out.aside = Console(file=sys.stdout, force_terminal=True, highlight=False, width=80)
    talk = Terminal(out, None, 4, 0.0)
    talk._at_terminal, typed = True, [""]
    talk._typed = lambda: typed[0]
    talk._remark_at_prompt(f"(consolidating {STORY[:5]})")
    assert capsys.readouterr().out == f"\r\x1b[2K(consolidating {STORY[:5]})\nyou> "
    typed[0] = "my na"
    talk._remark_at_prompt("(accepted)")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("builtins.input", lambda prompt: "my name")
    talk.session = type("Session", (), {"progress": None, "idle": lambda self, seconds: None})()
    assert talk._next_line() == "my name" and capsys.readouterr().out == "(accepted)\n"


def test_what_deletes_asks_once_at_a_terminal(monkeypatch, capsys):
    from types import SimpleNamespace

    from ttt_retrofit_cli.output import Output
    from ttt_retrofit_cli.terminal import Terminal

    done, asked, says = [], [], ["n", "", "y", "yes"]
    session = SimpleNamespace(
        memory=None, messages=[], progress=None,
        rollback=lambda: done.append("rollback"), erase=lambda: done.append("erase"),
        forget=lambda *names: done.append(names),
    )  # fmt: skip
    talk = Terminal(Output(as_json=False), session, 4, 0.0)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or says.pop(0))
    talk._at_terminal = True
    for name, argument in (("/rollback", ""), ("/forget", "a b"), ("/rollback", ""), ("/forget", "all")):
        talk._command(name, argument)
    assert done == ["rollback", "erase"] and len(asked) == 4 and "words and memory" in asked[3]
    talk._at_terminal = False  # lines of a file say what they want
    talk._command("/forget", "a b")
    assert done[2:] == [("a", "b")] and len(asked) == 4


def test_what_is_remembered_tells_stage_and_time_left():
    from types import SimpleNamespace

    from ttt_retrofit.consolidation.control import Progress
    from ttt_retrofit_cli.output import Output
    from ttt_retrofit_cli.terminal import Terminal

    session = SimpleNamespace(memory=None, messages=["one"], progress=Progress("train", 3, 12, 30.0, 95.4))
    assert "train, 3 of 12, 0:01:35 left" in Terminal(Output(as_json=False), session, 4, 0.0)._remembered()
    session.progress = Progress("study", 0, 0, 0.0, None)
    assert Terminal(Output(as_json=False), session, 4, 0.0)._remembered().endswith("study, 0 of 0.")
