"""A page to talk to one session: the conversation, its memory, and the progress of a consolidation.

It knows gradio's layout only; the memory belongs to the session.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from transformers import TextIteratorStreamer
from transformers.utils import logging

from ..chat.session import ChatSession
from ..consolidation.prompts import Prompts
from ..errors import InputError, TTTError
from ..memory.memory import Memory
from ..util.messages import Message
from ..util.phrasing import Phrasing
from .auth import Door, Secluded
from .browsers import JsonOnly, SameOrigin

logger = logging.get_logger(__name__)

HOST = "127.0.0.1"
MAX_BODY = 1 << 20  # bytes of what the page sends: a message, or which button
GRACE = 1.0  # seconds that requests have to end when the page is closed
LOOK = 1.0  # seconds between two looks at the session
LESSONS = ("question", "answer it was taught")
ENTRIES = ("entry", "made", "lessons", "kB")


class Talk:
    """What the page does with the session, one thing at a time.

    Parameters
    ----------
    most : tokens of an answer, at most.
    patience : seconds of silence after which older turns are consolidated.
    """

    def __init__(self, session: ChatSession, most: int, patience: float) -> None:
        self.session, self.most, self.patience = session, most, patience
        self.shown: list[Message] = list(session.messages)  # words that have become memory stay on the page
        self._erased = 0  # how often: what was being answered then is not shown afterwards
        self._lock = threading.Lock()
        self._heard = time.monotonic()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ttt-page")
        self._phrasing = Phrasing(session.tokenizer, Prompts.load(None).plain)

    def send(self, text: str) -> Iterator[list[Message]]:
        """Say something: the conversation, growing as the answer is written."""
        streamer: Any = TextIteratorStreamer(self.session.tokenizer, skip_prompt=True, skip_special_tokens=True)
        before, erased = list(self.shown), self._erased
        asked: Message = {"role": "user", "content": text}
        answer = self._worker.submit(self._answer, text, streamer)
        written = ""
        yield [*before, asked]
        for piece in streamer:
            written += piece
            yield [*before, asked, {"role": "assistant", "content": written}]
        said: list[Message] = [*before, asked, {"role": "assistant", "content": answer.result()}]
        with self._lock:
            if erased == self._erased:
                self.shown = said
        yield self.shown

    def _answer(self, text: str, streamer: Any) -> str:
        with self._lock:
            try:
                return self.session.send(text, max_new_tokens=self.most, streamer=streamer)
            finally:
                self._heard = time.monotonic()
                streamer.on_finalized_text("", stream_end=True)  # whatever happened, nobody waits for more

    def look(self) -> str:
        """Consolidate while nobody types; how it gets on."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._heard >= self.patience:
                    self.session.begin()
                self.session.settle()
            except Exception as error:
                logger.exception("A consolidation failed.")
                return f"The consolidation failed: {error}"
            finally:
                self._lock.release()
        now, waiting = self.session.progress, len(self.session.messages)
        if now is not None:
            return f"Consolidating: {now.stage}, {now.done} of {now.total}. {waiting} messages are still in words."
        return f"{waiting} messages are still in words."

    def change(self, change: Callable[[], None]) -> None:
        """Roll back, forget or erase."""
        with self._lock:
            change()
            self._heard = time.monotonic()

    def forget(self, names: list[str]) -> None:
        if not names:
            raise InputError("No context is chosen. Choose one, or several that were learned from each other.")
        self.change(lambda: self.session.forget(*names))

    def erase(self) -> None:
        self.change(self._erase)

    def _erase(self) -> None:
        self.session.erase()
        self.shown, self._erased = [], self._erased + 1

    # ------------------------------------------------------------------ what is remembered

    def summary(self) -> str:
        """In Markdown."""
        memory, store = self.session.memory, self.session.store
        lines = [f"**Contexts remembered: {len(_entries(memory))}**"]
        if memory is not None:
            lines[0] += f", {memory.nbytes / 1e3:,.0f} kB, version {store.current()} of {len(store.versions())} kept"
            report = memory.report
            if report is not None and report.recall is not None:
                lines.append(f"- recalled: {report.recall:.0%} of {report.questions} questions")
                lines.append(f"- drift: {report.drift_loss:+.2%} on unrelated text")
                if report.false_memories is not None:
                    lines.append(f"- false memories: {report.false_memories:.0%}")
        last = self.session.last_report
        if last is not None and not last.accepted:
            lines.append(f"- the last consolidation was rejected: {last.reason}")
        return "\n".join(lines)

    def entries(self) -> list[list[str]]:
        return [
            [e.name, time.strftime("%H:%M", time.localtime(e.created)), str(len(e.lessons)), f"{e.nbytes / 1e3:,.0f}"]
            for e in _entries(self.session.memory)
        ]

    def lessons(self) -> list[list[str]]:
        """What it was taught, newest context first."""
        found: dict[str, str] = {}
        for entry in reversed(_entries(self.session.memory)):
            for lesson in entry.lessons:
                if lesson.kind == "fact":
                    answer = str(self.session.tokenizer.decode(lesson.answer, skip_special_tokens=True)).strip()
                    found.setdefault(self._phrasing.question_of(lesson.prompt), answer)
        return [[question, answer] for question, answer in found.items()]


def _entries(memory: Memory | None) -> list[Any]:
    return [] if memory is None else list(memory.entries)


def page(talk: Talk, title: str) -> gr.Blocks:
    """The page, for `launch`."""
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as blocks, gr.Row():
        with gr.Column(scale=3):
            chat = gr.Chatbot(
                lambda: talk.shown, label=title, height="70vh", buttons=["copy_all"], feedback_options=None
            )
            said = gr.Textbox(placeholder="Say something", show_label=False, submit_btn=True, elem_id="said")
        with gr.Column(scale=2):
            progress = gr.Markdown(talk.look, elem_id="progress")
            summary = gr.Markdown(talk.summary, elem_id="memory")
            entries = gr.Dataframe(talk.entries, headers=list(ENTRIES), interactive=False, wrap=True)
            chosen = gr.Dropdown([], multiselect=True, label="Contexts to forget", elem_id="chosen")
            with gr.Row():
                back, forget = gr.Button("Roll back", elem_id="rollback"), gr.Button("Forget", elem_id="forget")
                erase = gr.Button("Erase everything", variant="stop", elem_id="erase")
            with gr.Row(visible=False) as sure:
                really = gr.Button("Erase words and memory for good", variant="stop", elem_id="really")
                keep = gr.Button("Keep them", elem_id="keep")
            lessons = gr.Dataframe(talk.lessons, headers=list(LESSONS), interactive=False, wrap=True)
        remembered = [summary, entries, chosen, lessons]
        known: gr.State = gr.State(None)

        def seen() -> tuple[Any, ...]:
            names = [name for name, *_ in talk.entries()]
            choices = gr.Dropdown(choices=names, value=names[-1:])
            return talk.summary(), talk.entries(), choices, talk.lessons()

        def look(before: Any) -> tuple[Any, ...]:
            """How it gets on; the panel is drawn anew only where the memory is another one."""
            now = talk.look()
            key = (id(talk.session.memory), id(talk.session.last_report))
            changed = seen() if key != before else tuple(gr.skip() for _ in remembered)
            return now, key, *changed

        def changed(what: Callable[[], None]) -> tuple[Any, ...]:
            try:
                what()
            except (TTTError, OSError) as error:
                raise gr.Error(str(error), print_exception=False) from error
            return talk.shown, *seen()

        def send(text: str) -> Iterator[tuple[list[Message], str]]:
            if text.strip():
                for conversation in talk.send(text):
                    yield conversation, ""

        session = talk.session
        said.submit(send, said, [chat, said])
        back.click(lambda: changed(lambda: talk.change(session.rollback)), None, [chat, *remembered])
        forget.click(lambda names: changed(lambda: talk.forget(names)), chosen, [chat, *remembered])
        erase.click(lambda: gr.Row(visible=True), None, sure)
        keep.click(lambda: gr.Row(visible=False), None, sure)
        really.click(lambda: (gr.Row(visible=False), *changed(talk.erase)), None, [sure, chat, *remembered])
        gr.Timer(LOOK).tick(look, known, [progress, known, *remembered], show_progress="hidden")
    return blocks


def application(talk: Talk, title: str) -> FastAPI:
    """The page behind its doors: shown under no other host's name, in no frame, and asked by no other page."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    doors = [
        Middleware(Door, key=None), Middleware(SameOrigin), Middleware(Secluded), Middleware(JsonOnly, most=MAX_BODY),
        Middleware(CORSMiddleware),  # which allows no origin; without it gradio allows every port of this machine
    ]  # fmt: skip
    app = FastAPI(middleware=doors, docs_url=None, redoc_url=None, openapi_url=None)
    return gr.mount_gradio_app(
        app, page(talk, title).queue(), "/", server_name=HOST, theme=theme, footer_links=[], run_history=False,
        ssr_mode=False, enable_monitoring=False, show_error=False,
    )  # fmt: skip


@contextmanager
def launch(talk: Talk, title: str, port: int | None) -> Iterator[str]:
    """Show the page at a local address; it asks nothing of any other machine, and answers no other host's name."""
    with socket.create_server((HOST, port or 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(application(talk, title), log_level="warning"))
        thread = threading.Thread(target=lambda: server.run([listening]), name="ttt-page-server", daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(GRACE)  # a browser that still looks at it keeps a stream open
            talk.session.close()
