"""The page of a tiny model: its controller, what its memory was told, and changes of facts that take no time."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from converted import speaker
from test_agent import CONFIG
from test_memory_facts import BOLT, GRAZ, MOVED, OSLO, REPORT, told
from words import QUESTIONS, tokenizer

from ttt_retrofit import ChatSession
from ttt_retrofit.chat.person_reviewer import PersonReviewer
from ttt_retrofit.consolidation.control import Progress
from ttt_retrofit.memory.store import MemoryStore
from ttt_retrofit.serving.page import PageController

NEVER = 1e9  # seconds


def paged(directory: Path, idle: float = NEVER, most: int = 6, review: PersonReviewer | None = None) -> PageController:
    """A controller whose threads do nothing yet."""
    session = ChatSession(
        speaker(), tokenizer(), directory, keep_turns=1, config=CONFIG, questions=QUESTIONS, review=review
    )
    return PageController(session, most, idle, review)


def knowing(directory: Path, monkeypatch: Any, **settings: Any) -> PageController:
    """The same with a memory of two versions and some facts. Deleting a fact takes it out, and nothing else."""
    model = speaker()
    store = MemoryStore(directory / "memory")
    for memory in (told(model, [OSLO]), told(model, [BOLT, MOVED], [GRAZ])):
        store.save(memory)

    def changing(self: Any, change: Any, progress: Any = None) -> Any:
        if self.at_once(change):
            return lambda: None

        def kept(entry: Any) -> Any:
            return dataclasses.replace(entry, facts=tuple(fact for fact in entry.facts if fact.id not in change.ids))

        entries = tuple(map(kept, self.memory.entries))
        return lambda: dataclasses.replace(self.memory, entries=entries, report=REPORT)

    monkeypatch.setattr(ChatSession, "changing", changing)
    return paged(directory, **settings)


class Learned:
    """A consolidation that has ended."""

    progress = Progress("verify", 3, 4, 9.0, 61.0)

    def __init__(self, memory: Any) -> None:
        self.memory = memory

    def done(self) -> bool:
        return True

    def resume(self) -> None:
        pass

    pause = cancel = wait = resume

    def result(self, timeout: float) -> Any:
        return self.memory


def learning(directory: Path, monkeypatch: Any) -> PageController:
    """A controller that consolidates as soon as nobody says anything, whatever was said to the same facts."""
    page = paged(directory, idle=0.0)
    made = dataclasses.replace(told(page.session.model, [BOLT]), report=REPORT)
    monkeypatch.setattr(page.session.model, "consolidate", lambda *_, **__: Learned(made))
    return page


def said(page: PageController, chat: int = 0) -> list[str]:
    """The texts of a chat."""
    return [message["content"] for message in list(page.owner.chats)[chat].messages]


def ask(page: PageController, text: str, chat: int = 0, place: int | None = None) -> list[str]:
    """The pieces of an answer."""
    return list(page.send(list(page.owner.chats)[chat].id, text, place))
