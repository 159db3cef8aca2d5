"""`chat` at a real terminal: lines are edited, Ctrl-C stops an answer and not the chat, remarks have lines."""

import os
import re
import select
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

    def status(self):
        self.drain()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def drain(self):
        try:
            while data := os.read(self.file, 4096):
                self.seen += data.decode(errors="replace")
        except OSError:  # the terminal of a process that has ended
            pass


def test_a_line_is_edited_and_those_before_come_back(base):
    chat = Terminal(base, "--max-new-tokens", "2", *SMALL)
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
    chat = Terminal(base, "--memory", tmp_path, "--max-new-tokens", "3000", *SMALL)
    chat.until(PROMPT)
    chat.type("where is Marek ?\r")
    chat.until(r"\w+ \w+ \w+ \w+ \w+ \w+ ")  # of the answer
    chat.type(CTRL_C)
    chat.until(r"\(stopped; this question and its answer are not kept\)")
    chat.until(PROMPT)
    chat.type("/memory\r")
    assert "0 messages are still in words" in chat.until("in words")
    chat.until(PROMPT)
    chat.type(CTRL_C)
    chat.until("Ctrl-C again")
    chat.until(PROMPT)
    chat.type(CTRL_C)
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
