"""`chat`: a conversation in a terminal that becomes memory while nobody types.

A thread waits for the next line; meanwhile the session is idle, which is when it consolidates.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TextStreamer
from transformers.utils import logging

from ttt_retrofit.chat.session import ChatSession
from ttt_retrofit.errors import InputError, MissingExtraError, TTTError
from ttt_retrofit.memory.report import Report
from ttt_retrofit.util.shown import shown

from .loading import Choices, load_model, load_tokenizer
from .output import Output
from .remembering import read_questions, recipe
from .temporary import passing_directory

logger = logging.get_logger(__name__)

PATIENCE = 3.0  # seconds of silence after which idle time begins
STEP = 0.5  # seconds of idle work between two looks at the keyboard
HELP = """/memory         what is remembered, and how well
/rollback       back to the memory before the last consolidation
/forget NAME    drop an entry of the memory, or several; /forget all drops everything, words too
/save DIR       write the memory, for Memory.load and model.load_memory
/help           this
/quit           leave, as Ctrl-D does; with --memory the conversation goes on the next time"""


class Streamer(TextStreamer):
    """Writes an answer to the console word by word."""

    def __init__(self, tokenizer: Any, out: Output) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out = out

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.out.console.print(shown(text), end="\n" if stream_end else "", markup=False, soft_wrap=True)


class Chat:
    """The session and what is said about it; events are kept for the document at the end."""

    def __init__(self, out: Output, session: ChatSession, most: int) -> None:
        self.out, self.session, self.most = out, session, most
        self.turns: list[dict[str, str]] = []
        self.reports: list[Report] = []
        self._lines: queue.Queue[str | None] = queue.Queue()

    def run(self) -> None:
        """Until the end of the input, or /quit."""
        threading.Thread(target=self._listen, name="ttt-chat-input", daemon=True).start()
        self._prompt()
        while (line := self._next_line()) is not None and line.strip() != "/quit":
            try:
                if line.startswith("/"):
                    self._command(*line.strip().partition(" ")[::2])
                elif line.strip():
                    self._say(line)
            except BrokenPipeError:  # nobody reads on
                raise
            except (TTTError, OSError) as error:
                self.out.remark(f"error: {error}")
            self._prompt()

    def _say(self, line: str) -> None:
        streamer = Streamer(self.session.tokenizer, self.out)
        answer = self.session.send(line, max_new_tokens=self.most, streamer=streamer)
        self.turns.append({"user": line, "assistant": answer})
        self._take(self.session.last_report)

    def _listen(self) -> None:
        try:
            for line in sys.stdin:
                self._lines.put(line.rstrip("\n"))
        finally:  # however the input ends, nobody waits for more of it
            self._lines.put(None)

    def _prompt(self) -> None:
        self.out.console.print("[bold]you>[/bold] ", end="")

    def _next_line(self) -> str | None:
        """The next line; idle time until it comes."""
        silent = time.monotonic()
        while True:
            try:
                return self._lines.get(timeout=0.1)
            except queue.Empty:
                if time.monotonic() - silent > PATIENCE:
                    self._idle()

    def _idle(self) -> None:
        working = self.session.progress is not None
        try:
            report = self.session.idle(STEP)
        except Exception as error:  # whatever it was, the conversation goes on
            logger.debug("A consolidation failed.", exc_info=True)
            self.out.remark(f"\n(the consolidation failed: {error})")
            return
        if not working and self.session.progress is not None:
            self.out.remark("\n(consolidating older turns while you are away; go on whenever you like)")
        if report is not None:
            self._take(report)
            self._prompt()

    def _take(self, report: Report | None) -> None:
        """Say once how a consolidation ended."""
        if report is not None and report not in self.reports:
            self.reports.append(report)
            self.out.remark(f"\n({report})")

    def _command(self, name: str, argument: str) -> None:
        argument = argument.strip()
        if name == "/help":
            self.out.remark(HELP)
        elif name == "/memory":
            self.out.remark(self._remembered())
        elif name == "/rollback":
            self.session.rollback()
            self.out.remark(self._remembered())
        elif name == "/forget":
            if argument == "all":
                self.session.erase()
            else:
                self.session.forget(*argument.split() or [""])
            self.out.remark(self._remembered())
        elif name == "/save":
            if self.session.memory is None or not argument:
                raise InputError("/save DIR writes the memory, once there is one; see /memory.")
            self.out.remark(f"Saved in {self.session.memory.save(Path(argument).expanduser())}.")
        else:
            raise InputError(f"{name} is no command. /help lists them; a message may not begin with a slash.")

    def _remembered(self) -> str:
        memory = self.session.memory
        waiting = f"{len(self.session.messages)} messages are still in words."
        now = self.session.progress
        if now is not None:
            waiting += f" Consolidating some of them: {now.stage}, {now.done} of {now.total}."
        if memory is None or not memory.entries:
            return f"Nothing is remembered yet; {waiting}"
        report = "" if memory.report is None else f"\n{memory.report}"
        return f"Remembered, oldest first: {', '.join(memory.names())}; {waiting}{report}"


def chat(
    out: Output,
    name: str,
    directory: Path | None,
    most: int,
    questions: Path | None,
    said: list[str],
    choices: Choices,
    device: str | None,
    split: bool = True,
    paged: bool = False,
    port: int | None = None,
) -> None:
    """Talk until /quit, or on a page until interrupted; all is kept in the directory, or nothing without one.

    Raises
    ------
    MissingExtraError
        Where a page is asked for and gradio is not installed.
    """
    if paged and find_spec("gradio") is None:
        raise MissingExtraError("--page", "gradio", "chat")
    with nullcontext(directory) if directory else passing_directory() as where:
        config, asked = recipe(said), read_questions(questions)
        with out.aside.status(f"loading {name}"):
            model, tokenizer = load_model(name, choices, device), load_tokenizer(name, choices)
        session = ChatSession(model, tokenizer, where, config=config, questions=asked, split_special_tokens=split)
        kept = f"Kept in {directory}." if directory else "Nothing is kept when you leave; --memory DIR keeps it."
        if paged:
            show(out, session, most, kept, port)
            return
        out.remark(f"{kept} /help lists the commands.")
        talk = Chat(out, session, most)
        try:
            talk.run()
        finally:
            session.close()
    document = {
        "directory": None if directory is None else str(directory),
        "turns": talk.turns,
        "consolidations": [report.to_dict() for report in talk.reports],
        "entries": [] if session.memory is None else session.memory.names(),
        "messages": session.messages,
    }
    out.result(document, "")


def show(out: Output, session: ChatSession, most: int, kept: str, port: int | None) -> None:
    """Talk on a page, until interrupted."""
    from ttt_retrofit.serving.page import Talk, launch

    with launch(Talk(session, most, PATIENCE), "ttt-retrofit", port) as url:
        out.result({"url": url}, f"The page is at {url}. {kept} Ctrl-C stops.")
        threading.Event().wait()
