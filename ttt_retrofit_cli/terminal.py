"""A conversation in a terminal: lines are read, answered and, while none comes, made into memory.

A thread gives the session idle time while the main one waits for a line, so that an interrupt reaches whichever of
reading and answering is under way.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.control import Control
from rich.segment import ControlType
from transformers import TextStreamer
from transformers.utils import logging

from ttt_retrofit import ChatSession, InputError, TTTError
from ttt_retrofit.chat.person_reviewer import PersonReviewer
from ttt_retrofit.memory.report import Report
from ttt_retrofit.util.shown import shown

from .frame import Terminated
from .output import Output, left
from .reviewing import one_by_one

logger = logging.get_logger(__name__)

PROMPT = "you> "
LOOK = 0.1  # seconds between two stretches of idle work
STEP = 0.5  # seconds of idle work after which a line that has come is read
HELP = """/memory         what is remembered, and how well
/review         say which of the facts that were found are kept, with --review
/new            a new conversation; what was said is known in words until it is memory
/rollback       back to the memory before the last consolidation
/forget NAME    drop an entry of the memory, or several; /forget all drops everything, words too
/save DIR       write the memory, for Memory.load and model.load_memory
/help           this
/quit           leave, as Ctrl-D does; with --memory the conversation goes on the next time
Ctrl-C          stop the answer; twice at the prompt, leave"""


class Streamer(TextStreamer):
    """Writes an answer to the console word by word."""

    def __init__(self, tokenizer: Any, out: Output) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.out = out

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.out.console.print(shown(text), end="\n" if stream_end else "", markup=False, soft_wrap=True)


class Terminal:
    """The session and what is said about it; events are kept for the document at the end.

    Parameters
    ----------
    most : tokens of an answer, at most.
    patience : seconds of silence after which older turns are consolidated.
    waiting : the facts that are to be reviewed.
    """

    def __init__(
        self, out: Output, session: ChatSession, most: int, patience: float, waiting: PersonReviewer | None = None
    ) -> None:
        self.waiting = waiting or PersonReviewer()
        self.out, self.session, self.most, self.patience = out, session, most, patience
        self.turns: list[dict[str, str]] = []
        self.reports: list[Report] = []
        self._lines = iter(sys.stdin)
        self._later: list[str] = []  # remarks that would have come into a line that is typed, or after it
        self._over = threading.Event()  # set when a line has come
        self._at_terminal = not out.as_json and sys.stdin.isatty() and sys.stdout.isatty()
        self._typed: Callable[[], str] = str
        if self._at_terminal and find_spec("readline"):
            import readline  # from now on `input` edits lines and knows those before

            self._typed = readline.get_line_buffer

    def run(self) -> None:
        """Until the end of the input, or /quit."""
        while (line := self._next_line()) is not None and line.strip() != "/quit":
            try:
                if line.startswith("/"):
                    self._command(*line.strip().partition(" ")[::2])
                elif line.strip():
                    self._say(line)
            except (BrokenPipeError, Terminated):  # nobody reads on, or the process is to end
                raise
            except KeyboardInterrupt:
                self.out.remark("\n(stopped; this question and its answer are not kept)")
            except (TTTError, OSError) as error:
                self.out.remark(f"error: {error}")

    def _say(self, line: str) -> None:
        streamer = Streamer(self.session.tokenizer, self.out)
        answer = self.session.send(line, max_new_tokens=self.most, streamer=streamer)
        self.turns.append({"user": line, "assistant": answer})
        self._take(self.session.last_report, self.out.remark)

    def _next_line(self) -> str | None:
        """The next line, None at the end of the input; idle time until it comes."""
        warned = False
        while True:
            try:
                with self._idle_time():
                    return self._read_line()
            except Terminated:
                raise
            except KeyboardInterrupt:
                if warned or not self._at_terminal:
                    raise
                warned = True
                self.out.remark("\n(Ctrl-C again, Ctrl-D or /quit leaves)")

    def _read_line(self) -> str | None:
        if not self._at_terminal:
            self.out.console.print(PROMPT, end="")
            line = next(self._lines, None)
            return None if line is None else line.rstrip("\n")
        try:
            return input(PROMPT)
        except EOFError:
            self.out.console.print()
            return None

    @contextmanager
    def _idle_time(self) -> Iterator[None]:
        """Let the session consolidate meanwhile, in another thread."""
        self._over.clear()
        idle = threading.Thread(target=self._idle, name="ttt-chat-idle", daemon=True)
        idle.start()
        try:
            yield
        finally:
            self._over.set()
            idle.join()
            for remark in self._later:
                self.out.remark(remark)
            self._later.clear()

    def _idle(self) -> None:
        """Idle time until it is over, from some seconds of silence on."""
        announced, asked = self.session.progress is not None, bool(self.waiting.facts)
        self._over.wait(self.patience)
        while not self._over.wait(LOOK):
            try:
                report = self.session.idle(STEP)
            except Exception as error:  # whatever it was, the conversation goes on
                logger.debug("A consolidation failed.", exc_info=True)
                self._remark_at_prompt(f"(the consolidation failed: {error})")
                return
            if not announced and self.session.progress is not None:
                self._remark_at_prompt("(consolidating older turns while you are away; go on whenever you like)")
            announced = self.session.progress is not None
            if self.waiting.facts and not asked:
                self._remark_at_prompt(f"({len(self.waiting.facts)} facts wait for your yes: /review)")
            asked = bool(self.waiting.facts)
            self._take(report, self._remark_at_prompt)

    def _remark_at_prompt(self, text: str) -> None:
        """A remark in place of the prompt, which comes again below it; if a line has been begun, after that line."""
        if self._over.is_set() or self._typed():
            self._later.append(text)
            return
        if self._at_terminal:
            self.out.console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        self.out.remark(text if self._at_terminal else f"\n{text}")
        self.out.console.print(PROMPT, end="")

    def _take(self, report: Report | None, remark: Callable[[str], None]) -> None:
        """Say once how a consolidation ended."""
        if report is not None and report not in self.reports:
            self.reports.append(report)
            remark(f"({report})")

    def _command(self, name: str, argument: str) -> None:
        argument = argument.strip()
        if name == "/help":
            self.out.remark(HELP)
        elif name == "/memory":
            self.out.remark(self._remembered())
        elif name == "/review":
            if self.waiting.facts:
                self.waiting.keep(one_by_one(self.waiting.facts, self._keeps))
            else:
                self.out.remark("No facts wait for a review.")
        elif name == "/new":
            self.session.new_conversation()
            self.out.remark(f"{len(self.session.waiting_facts())} facts are known in words.")
        elif name == "/rollback":
            if self._is_sure("Go back to the memory before?"):
                self.waiting.dismiss()
                self.session.rollback()
            self.out.remark(self._remembered())
        elif name == "/forget":
            if not argument or self._is_sure(f"Forget {argument}{', words and memory' if argument == 'all' else ''}?"):
                self.waiting.dismiss()
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

    def _keeps(self, question: str) -> bool:
        """Yes, unless the next line says no."""
        self.out.console.print(shown(f"{question} [Y/n] "), end="", markup=False, soft_wrap=True)
        line = input() if self._at_terminal else next(self._lines, "n")
        return not line.strip().lower().startswith("n")

    def _is_sure(self, question: str) -> bool:
        """Only a yes deletes. Lines that come from a file or a program are not asked for one."""
        return not self._at_terminal or input(shown(f"{question} [y/N] ")).strip().lower().startswith("y")

    def _remembered(self) -> str:
        memory = self.session.memory
        waiting = f"{len(self.session.messages)} messages are still in words."
        now = self.session.progress
        if now is not None:
            stage = [now.stage, f"{now.done} of {now.total}", left(now)]
            waiting += f" Consolidating some of them: {', '.join(filter(None, stage))}."
        if memory is None or not memory.entries:
            return f"Nothing is remembered yet; {waiting}"
        report = "" if memory.report is None else f"\n{memory.report}"
        return f"Remembered, oldest first: {', '.join(memory.names())}; {waiting}{report}"
