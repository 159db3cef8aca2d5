"""Where facts stand in words: the sentences and messages that tell them, which go when the facts are deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ...memory.entry import Source
from ...memory.facts import Fact
from ...memory.notes import Note
from ...util.files import parsed
from ...util.messages import Message
from ..facts.checks import folded, names_in, words_of
from ..facts.languages import nearest
from ..facts.related import common, terms
from ..study.sentences import sentences


@dataclass(frozen=True)
class Traces:
    """Facts that go, among those that stay."""

    gone: Sequence[Fact]
    left: Sequence[Fact]

    @cached_property
    def own(self) -> frozenset[str]:
        """Names, numbers and codes that no other fact has, folded."""
        return names_in(fact.text for fact in self.gone).difference(*(words_of(fact.text) for fact in self.left))

    @cached_property
    def _whole(self) -> set[str]:
        """The facts word by word; of one that is told with the message before it, itself."""
        return {
            folded(text).strip() for fact in self.gone if fact.text for text in (fact.text, fact.text.split(" – ")[-1])
        }

    @cached_property
    def _telling(self) -> list[set[str]]:
        """The words that say what each fact is about."""
        return [terms(fact.text) - common(nearest(fact.text)) for fact in self.gone if fact.text]

    def tells(self, text: str) -> bool:
        """Whether a text has a name of theirs, all words that say what one is about, or is one."""
        said = terms(text)
        return (
            not self.own.isdisjoint(words_of(text))
            or any(some and some <= said for some in self._telling)
            or folded(text).strip() in self._whole
        )

    def notes(self, notes: Sequence[Note]) -> tuple[Note, ...]:
        """The notes that tell none of them."""
        return tuple(note for note in notes if not self.tells(note.text))

    def exchanges(self, messages: Sequence[Message]) -> list[Message]:
        """The messages without the exchanges, each from a message of the user to the next, in which the user tells one
        of them. Where only the answer does, its sentences go: the user may have told something else.
        """
        kept: list[Message] = []
        for exchange in _exchanges(messages):
            if not any(m["role"] == "user" and any(map(self.tells, sentences(m["content"]))) for m in exchange):
                kept += [{**message, "content": self._without(message["content"])} for message in exchange]
        return kept

    def source(self, source: Source) -> Source:
        """The source, its text without the sentences that tell one of them; without a text where none is found."""
        if source.text is None:
            return source
        text = self._chat(source.text) if source.kind == "chat" else self._without(source.text)
        unfound = text == source.text or not self.own.isdisjoint(words_of(text))
        return replace(source, text=None if unfound else text)

    def _without(self, text: str) -> str:
        """A text without the sentences that tell one of them; as it was where none does."""
        parts = sentences(text)
        kept = [part for part in parts if not self.tells(part)]
        return text if len(kept) == len(parts) else " ".join(kept)

    def _chat(self, text: str) -> str:
        messages: list[Mapping[str, Any]] = parsed(text)
        kept = [{**message, "content": self._without(message["content"])} for message in messages]
        return text if kept == messages else json.dumps(kept, ensure_ascii=False)


def _exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    found: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not found:
            found.append([])
        found[-1].append(message)
    return found
