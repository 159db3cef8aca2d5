"""A web page for one session: the conversation, its memory, and the progress of a consolidation.

`PageController` is what the page does with the session. `build_page` is the layout, in gradio.
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

from ..chat.days import without_days
from ..chat.session import ChatSession
from ..consolidation.prompts import Prompts
from ..errors import InputError, TTTError
from ..memory.memory import Memory
from ..util.messages import Message
from ..util.prompt_formatter import PromptFormatter
from .auth import AuthMiddleware
from .browsers import JsonBodyMiddleware, SameOriginMiddleware, SecurityHeadersMiddleware

logger = logging.get_logger(__name__)

HOST = "127.0.0.1"
MAX_BODY = 1 << 20  # bytes of a request: a message, or which button was pressed
GRACE = 1.0  # seconds in which requests may end when the page is closed
POLL = 1.0  # seconds
LESSONS = ("question", "answer it was taught")
ENTRIES = ("entry", "made", "lessons", "kB")


class PageController:
    """What the page does with the session, one action at a time.

    Parameters
    ----------
    max_new_tokens : of an answer.
    idle : seconds without a message after which older turns are consolidated.
    """

    def __init__(self, session: ChatSession, max_new_tokens: int, idle: float) -> None:
        self.session, self.max_new_tokens, self.idle = session, max_new_tokens, idle
        self.shown: list[Message] = without_days(
            session.messages
        )  # messages stay on the page when they are consolidated
        self._erasures = 0  # an answer that was being written during one is not shown afterwards
        self._lock = threading.Lock()
        self._last_active = time.monotonic()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ttt-page")
        self._formatter = PromptFormatter(session.tokenizer, Prompts.load(None).plain)

    def send(self, text: str) -> Iterator[list[Message]]:
        """Send a message. Yields the conversation after each piece of the answer."""
        streamer: Any = TextIteratorStreamer(self.session.tokenizer, skip_prompt=True, skip_special_tokens=True)
        before, erasures = list(self.shown), self._erasures
        question: Message = {"role": "user", "content": text}
        answer = self._worker.submit(self._answer, text, streamer)
        written = ""
        yield [*before, question]
        for piece in streamer:
            written += piece
            yield [*before, question, {"role": "assistant", "content": written}]
        answered: list[Message] = [*before, question, {"role": "assistant", "content": answer.result()}]
        with self._lock:
            if erasures == self._erasures:
                self.shown = answered
        yield self.shown

    def _answer(self, text: str, streamer: Any) -> str:
        with self._lock:
            try:
                return self.session.send(text, max_new_tokens=self.max_new_tokens, streamer=streamer)
            finally:
                self._last_active = time.monotonic()
                streamer.on_finalized_text("", stream_end=True)  # after an error, too: `send` waits for it

    def poll(self) -> str:
        """Start a consolidation when the user is idle, and take over its result. Returns the progress, in words."""
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._last_active >= self.idle:
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
        """Run a change of the memory: a rollback, or what `forget` and `erase` do."""
        with self._lock:
            change()
            self._last_active = time.monotonic()

    def forget(self, names: list[str]) -> None:
        if not names:
            raise InputError("No context is chosen. Choose one, or several that were learned from each other.")
        self.change(lambda: self.session.forget(*names))

    def erase(self) -> None:
        self.change(self._erase)

    def _erase(self) -> None:
        self.session.erase()
        self.shown, self._erasures = [], self._erasures + 1

    # ------------------------------------------------------------------ the memory

    def summary(self) -> str:
        """The memory and its report, in Markdown."""
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
        """The questions and answers of the memory's entries, newest entry first."""
        found: dict[str, str] = {}
        for entry in reversed(_entries(self.session.memory)):
            for lesson in entry.lessons:
                if lesson.kind == "fact":
                    answer = str(self.session.tokenizer.decode(lesson.answer, skip_special_tokens=True)).strip()
                    found.setdefault(self._formatter.question_of(lesson.prompt), answer)
        return [[question, answer] for question, answer in found.items()]


def _entries(memory: Memory | None) -> list[Any]:
    return [] if memory is None else list(memory.entries)


def build_page(controller: PageController, title: str) -> gr.Blocks:
    """The layout, and which action each button calls."""
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True) as blocks, gr.Row():
        with gr.Column(scale=3):
            chat = gr.Chatbot(
                lambda: controller.shown, label=title, height="70vh", buttons=["copy_all"], feedback_options=None
            )
            message = gr.Textbox(placeholder="Say something", show_label=False, submit_btn=True, elem_id="said")
        with gr.Column(scale=2):
            progress = gr.Markdown(controller.poll, elem_id="progress")
            summary = gr.Markdown(controller.summary, elem_id="memory")
            entries = gr.Dataframe(controller.entries, headers=list(ENTRIES), interactive=False, wrap=True)
            chosen = gr.Dropdown([], multiselect=True, label="Contexts to forget", elem_id="chosen")
            with gr.Row():
                back, forget = gr.Button("Roll back", elem_id="rollback"), gr.Button("Forget", elem_id="forget")
                erase = gr.Button("Erase everything", variant="stop", elem_id="erase")
            with gr.Row(visible=False) as confirmation:
                confirm = gr.Button("Erase words and memory for good", variant="stop", elem_id="really")
                keep = gr.Button("Keep them", elem_id="keep")
            lessons = gr.Dataframe(controller.lessons, headers=list(LESSONS), interactive=False, wrap=True)
        memory_panel = [summary, entries, chosen, lessons]
        drawn: gr.State = gr.State(None)  # which memory the panel shows

        def panel() -> tuple[Any, ...]:
            names = [name for name, *_ in controller.entries()]
            choices = gr.Dropdown(choices=names, value=names[-1:])
            return controller.summary(), controller.entries(), choices, controller.lessons()

        def poll(before: Any) -> tuple[Any, ...]:
            """The progress. The panel is drawn again only if the memory has changed."""
            status = controller.poll()
            key = (id(controller.session.memory), id(controller.session.last_report))
            changed = panel() if key != before else tuple(gr.skip() for _ in memory_panel)
            return status, key, *changed

        def apply(change: Callable[[], None]) -> tuple[Any, ...]:
            try:
                change()
            except (TTTError, OSError) as error:
                raise gr.Error(str(error), print_exception=False) from error
            return controller.shown, *panel()

        def send(text: str) -> Iterator[tuple[list[Message], str]]:
            if text.strip():
                for conversation in controller.send(text):
                    yield conversation, ""

        session = controller.session
        message.submit(send, message, [chat, message])
        back.click(lambda: apply(lambda: controller.change(session.rollback)), None, [chat, *memory_panel])
        forget.click(lambda names: apply(lambda: controller.forget(names)), chosen, [chat, *memory_panel])
        erase.click(lambda: gr.Row(visible=True), None, confirmation)
        keep.click(lambda: gr.Row(visible=False), None, confirmation)
        confirm.click(
            lambda: (gr.Row(visible=False), *apply(controller.erase)), None, [confirmation, chat, *memory_panel]
        )
        gr.Timer(POLL).tick(poll, drawn, [progress, drawn, *memory_panel], show_progress="hidden")
    return blocks


def application(controller: PageController, title: str) -> FastAPI:
    """The page as an ASGI application. It answers under no other host's name, in no frame, and to no other page."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    middleware = [
        Middleware(AuthMiddleware, key=None),
        Middleware(SameOriginMiddleware),
        Middleware(SecurityHeadersMiddleware),
        Middleware(JsonBodyMiddleware, max_bytes=MAX_BODY),
        Middleware(CORSMiddleware),  # allows no origin; without it gradio allows every port of this machine
    ]
    app = FastAPI(middleware=middleware, docs_url=None, redoc_url=None, openapi_url=None)
    return gr.mount_gradio_app(
        app, build_page(controller, title).queue(), "/", server_name=HOST, theme=theme, footer_links=[],
        run_history=False, ssr_mode=False, enable_monitoring=False, show_error=False,
    )  # fmt: skip


@contextmanager
def launch(controller: PageController, title: str, port: int | None) -> Iterator[str]:
    """Serve the page at a local address, which is yielded. The page loads nothing from other machines."""
    with socket.create_server((HOST, port or 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(application(controller, title), log_level="warning"))
        thread = threading.Thread(target=lambda: server.run([sock]), name="ttt-page-server", daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{sock.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(GRACE)  # a browser that still looks at it keeps a stream open
            controller.session.close()
