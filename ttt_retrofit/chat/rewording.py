"""Turns without what some facts say: sentence by sentence, so that what else they tell stays."""

from __future__ import annotations

from collections.abc import Sequence

from ..consolidation.sentences import sentences
from ..consolidation.traces import Traces
from ..memory.facts import Fact
from ..util.messages import Message


def reworded(
    messages: Sequence[Message],
    gone: Sequence[Fact],
    left: Sequence[Fact],
    text: str | None = None,
    date: str | None = None,
) -> list[Message]:
    """The messages without the sentences that tell facts; with a text of the user in the place of the first one.

    A message that tells one in other words than the fact goes as a whole. With the last sentence of a message of the
    user its answers go, too.

    Parameters
    ----------
    gone : facts, whose `messages` are their places.
    left : other facts, whose names stay.
    date : of the text; of the message that it stands for, if not given.
    """
    traces = Traces(gone, left)
    places = {place for fact in gone for place in fact.messages}
    kept: list[Message] = []
    answered, begins = True, False  # whether answers stay; whether a conversation has lost the message it began with
    for place, message in enumerate(messages):
        parts = sentences(message["content"])
        some = [part for part in parts if not traces.tells(part)]
        if len(some) == len(parts):
            some, content = [] if place in places else some, message["content"]
        else:
            content = " ".join(some)
        if message["role"] == "user":
            answered = bool(some)
        begins = begins or "conversation" in message
        found = [{**message, "content": content}] if some and answered else []
        if text is not None and place == min(places, default=None):
            said = date or message.get("date")
            found.append({"role": "user", "content": text, **({} if said is None else {"date": said})})
        for one in found:
            one.pop("conversation", None)
            kept.append({**one, "conversation": "new"} if begins else one)
            begins = False
    return kept
