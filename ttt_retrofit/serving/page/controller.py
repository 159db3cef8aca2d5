"""`PageController`: what a page does with its session: answers, idle time, review."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer
from transformers.utils import logging

from ...chat.days import today
from ...chat.person_reviewer import PersonReviewer
from ...chat.session import ChatSession
from ...errors import InputError
from ...util.messages import Message
from ..changes import FactChanges
from .chats import Chat, in_prompt
from .owner import NAME, OnlyOwner, Owner

logger = logging.get_logger(__name__)

POLL = 0.2  # seconds
MOST_CHANGES = 20  # of facts that are shown, the newest: those that wait, and those that were refused


class _Stopped(StoppingCriteria):
    """Ends an answer when its event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


@dataclasses.dataclass(eq=False)
class _Answering:
    """An answer that is being written: to `asked`, in a chat, behind the messages `before` it."""

    owner: Owner
    chat: Chat
    before: list[Message]
    asked: Message
    streamer: Any
    stopped: threading.Event = dataclasses.field(default_factory=threading.Event)


class PageController:
    """One thread answers, one question at a time; another one consolidates and changes facts between the answers.

    Parameters
    ----------
    max_new_tokens : of an answer.
    idle : seconds without a message after which older turns are consolidated.
    review : the reviewer of the session, if a person reviews.
    """

    def __init__(
        self, session: ChatSession, max_new_tokens: int, idle: float, review: PersonReviewer | None = None
    ) -> None:
        self.session, self.max_new_tokens, self.idle = session, max_new_tokens, idle
        self.review = review or PersonReviewer()
        self.owners = OnlyOwner(session, self.review)
        self.changes = FactChanges(self.owners)
        self._answering: _Answering | None = None
        self._last_active = time.monotonic()
        self._failure = ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="ttt-page")
        self._idler = threading.Thread(target=self._run, name="ttt-page-idle", daemon=True)

    @property
    def owner(self) -> Owner:
        return self.owners.user

    def start(self) -> None:
        """Begin to consolidate in idle time."""
        self._idler.start()

    def close(self) -> None:
        """End. A consolidation and changes of facts that wait go on when the session is opened again."""
        self._closed.set()
        self.stop()
        self.review.dismiss(close=True)
        self._idler.join()
        self._writer.shutdown()
        self.owner.close()

    # ------------------------------------------------------------------ answers

    def send(self, name: str, text: str, place: int | None = None) -> Iterator[str]:
        """Ask in a chat. Gives the answer piece by piece. It is written to its end whoever listens.

        Parameters
        ----------
        name : id of the chat.
        place : of the message of the user that is asked anew, or changed. What follows it is replaced with the answer.

        Raises
        ------
        InputError
            When the text is empty, another answer is being written, or there is no such chat or message.
        """
        if not text.strip():
            raise InputError("The message is empty.")
        chat = self.owner.chats.get(name)
        before = chat.before(place)
        with self._lock:
            if self._answering is not None:
                raise InputError("An answer is being written. Wait for it, or stop it.")
            streamer: Any = TextIteratorStreamer(self.session.tokenizer, skip_prompt=True, skip_special_tokens=True)
            asked: Message = {"role": "user", "content": text, "date": today()}
            self._failure = ""
            writing = self._answering = _Answering(self.owner, chat, before, asked, streamer)
        written = self._writer.submit(self._write, writing)
        return self._pieces(writing, written)

    def _pieces(self, writing: _Answering, written: Any) -> Iterator[str]:
        yield from writing.streamer
        written.result()  # raises its error

    def _write(self, writing: _Answering) -> None:
        try:
            waiting, keep = self.session.messages, self.session.keep_turns
            answer = self.session.answer(
                [*in_prompt(writing.before, waiting, keep), writing.asked],
                instead_of=writing.chat.messages[len(writing.before) :],
                max_new_tokens=self.max_new_tokens,
                streamer=writing.streamer,
                stopping_criteria=StoppingCriteriaList([_Stopped(writing.stopped)]),
            )
            if answer or not writing.stopped.is_set():
                said: Message = {**writing.asked, "role": "assistant", "content": answer}
                writing.owner.add(writing.chat, writing.before, writing.asked, said)
        finally:
            self._last_active, self._answering = time.monotonic(), None
            writing.streamer.on_finalized_text("", stream_end=True)  # after an error, too: `_pieces` waits for it

    def stop(self) -> None:
        """End the answer that is being written. What there is of it stays."""
        writing = self._answering
        if writing is not None:
            writing.stopped.set()

    def remove(self, name: str) -> None:
        """Delete a chat. An answer that is being written into it is stopped and not kept."""
        chat, writing = self.owner.chats.get(name), self._answering
        if writing is not None and writing.chat is chat:
            self.stop()
        self.owner.remove(chat)

    # ------------------------------------------------------------------ the memory

    def keep(self, texts: Mapping[str, str]) -> None:
        """Answer a review.

        Parameters
        ----------
        texts : of the facts that are kept, by id, changed or not.

        Raises
        ------
        InputError
            When other facts wait.
        """
        facts = {fact.id: fact for fact in self.review.facts}
        if not facts or not texts.keys() <= facts.keys():
            raise InputError("These facts do not wait for a review anymore.")
        self.review.keep([dataclasses.replace(facts[name], text=text) for name, text in texts.items()])

    def state(self) -> dict[str, Any]:
        """All that changes by itself, as a JSON object."""
        writing, owner = self._answering, self.owner
        changes = [one for one in self.changes.of(NAME) if one.status != "accepted"]
        return {
            "user": NAME,
            "chats": [{"id": chat.id, "title": chat.title, "changed": chat.changed} for chat in owner.chats],
            "answering": None if writing is None else writing.chat.id,
            "memory": owner.status(),
            "review": [fact.to_dict() for fact in self.review.facts],
            "changes": [one.to_dict() for one in changes[-MOST_CHANGES:]],
            "failure": self._failure,
        }

    def _run(self) -> None:
        """Until the page is closed. After a failure nothing is begun until something else was said."""
        while not self._closed.wait(POLL):
            try:
                self.changes.work(self._closed.is_set)
                self._consolidate()
            except Exception as error:  # whatever it was, the conversation goes on
                logger.exception("A consolidation failed.")
                self._failure = str(error)

    def _consolidate(self) -> None:
        """Begin or go on when nothing was said for a while, and take over the result."""
        if self._answering is not None or time.monotonic() - self._last_active < self.idle:
            return
        if not self._failure and self.owner.begin():
            self.owner.settle()
