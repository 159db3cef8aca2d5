"""Messages of a `ChatSession`: the day on which each was said, kept with it, and the exchanges that they make."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

from ..consolidation.facts.turns import day_of
from ..util.messages import Message, studied


def today() -> str:
    return datetime.date.today().isoformat()


def with_days(messages: Sequence[Any]) -> list[Message]:
    """What of the messages becomes memory, each with its day, in ISO 8601, under "date".

    A message without a date or a timestamp has the day of the message before it; the first has today's.

    Raises
    ------
    InputError
        As `studied`, and for a date that cannot be read.
    """
    studied(messages)  # raises with the place of the message that is wrong
    found: list[Message] = []
    day = datetime.date.today()
    for place, message in enumerate(messages):
        given = message.get("date", message.get("timestamp"))
        day = day if given is None else day_of(given, f"the date of chat message {place}")
        found += [{**said, "date": day.isoformat()} for said in studied([message])]
    return found


def exchanges(messages: Sequence[Message]) -> list[list[Message]]:
    """The messages that say something, from each one of the user to the next."""
    found: list[list[Message]] = []
    for message in messages:
        if message["role"] == "user" or not found:
            found.append([])
        if message["content"].strip():
            found[-1].append(message)
    return [exchange for exchange in found if exchange]


def without_days(messages: Sequence[Message]) -> list[Message]:
    """The messages as a chat template takes them."""
    return [{"role": message["role"], "content": message["content"]} for message in messages]
