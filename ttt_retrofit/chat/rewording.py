"""Turns without what some facts say: sentence by sentence, so that what else they tell stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..consolidation.study.sentences import sentences
from ..consolidation.verify.traces import Traces
from ..util.messages import Message


@dataclass(frozen=True)
class Rewording:
    """Takes facts out of messages, and puts a text in their place.

    A message that tells one in other words than the fact goes as a whole. With the last sentence of a message of the
    user its answers go, too.

    Attributes
    ----------
    traces : of the facts.
    told : the messages that told them.
    text : of the user, in the place of the first of `told`; None where nothing takes their place.
    date : of the text; of the message that it stands for, if not given.
    """

    traces: Traces
    told: Sequence[Message]
    text: str | None = None
    date: str | None = None

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """What is left of messages, the session's own or a copy of some."""
        return [message for _, message in self.placed(messages)]

    def placed(self, messages: Sequence[Message]) -> list[tuple[int | None, Message]]:
        """The same, each with its place before; that of the text is None."""
        places = [place for place, message in enumerate(messages) if message in self.told]
        kept: list[tuple[int | None, Message]] = []
        answered = True  # whether answers stay
        begins = False  # whether a conversation has lost the message it began with
        for place, message in enumerate(messages):
            parts = sentences(message["content"])
            some = [part for part in parts if not self.traces.tells(part)]
            if len(some) == len(parts):
                some, content = [] if place in places else some, message["content"]
            else:
                content = " ".join(some)
            if message["role"] == "user":
                answered = bool(some)
            begins = begins or "conversation" in message
            found: list[tuple[int | None, Message]] = [(place, {**message, "content": content})]
            found = found if some and answered else []
            if self.text is not None and places[:1] == [place]:
                said = self.date or message.get("date")
                found.append((None, {"role": "user", "content": self.text, **({} if said is None else {"date": said})}))
            for before, one in found:
                one.pop("conversation", None)
                kept.append((before, {**one, "conversation": "new"} if begins else one))
                begins = False
        return kept
