"""Messages as they are read for facts: who said what, and when.

A system prompt is the application's and never becomes memory. What a tool returned does, as what the tool said; that it
was called does not.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ...errors import InputError, quoted
from ...util.messages import text_of
from .dates import with_days

USER = "User"
SPEAKERS = {"user": USER, "assistant": "Assistant", "tool": "Tool", "function": "Tool"}
NAMED = ("user", "assistant")  # roles of those who may have a name
ASKS = ("?", "？", "؟")
SILENT = ("system", "developer")  # roles of the application


@dataclass(frozen=True)
class Turn:
    """One message that says something."""

    place: int  # of the message in the conversation, from 0
    said_by: str  # "User", "Assistant", "Tool", or the name of a user or an assistant that has one
    text: str
    date: datetime.date

    @property
    def speaker(self) -> str:
        """As a fact names who said it: a role in lower case, a name as it is."""
        return speaker_of(self.said_by)

    @property
    def asks(self) -> bool:
        """Whether it ends with a question, which the next message may answer in a word."""
        return self.text.rstrip().endswith(ASKS)

    @cached_property
    def dated(self) -> str:
        """The text with relative days written out, by which it is understood on any other day."""
        return with_days(self.text, self.date)


def speaker_of(said_by: str) -> str:
    """How a fact names who said it: a role in lower case, a name as it is."""
    return said_by.lower() if said_by in SPEAKERS.values() else said_by


def turns_of(messages: Sequence[Any], date: datetime.date | str | None = None) -> list[Turn]:
    """The messages that say something, each with its day and its speaker.

    Parameters
    ----------
    messages : a "name" beside the role of a user or an assistant, as in OpenAI's protocol, tells speakers apart.
    date : of messages that carry none under "date" or "timestamp"; today when not given. A message without a date has
        that of the message before it.

    Raises
    ------
    InputError
        For what is no message, and for a date that cannot be read.
    """
    day = day_of(date, "date") if date is not None else datetime.date.today()
    turns = []
    for place, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in SPEAKERS and role not in SILENT:
            raise InputError(
                f"Chat message {place} is {quoted(message)}; expected {{'role': ..., 'content': ...}} with one of the "
                f"roles {[*SPEAKERS, *SILENT]}."
            )
        given = message.get("date", message.get("timestamp"))
        day = day if given is None else day_of(given, f"the date of chat message {place}")
        text = "" if role in SILENT else text_of(message, place).strip()
        if text:
            turns.append(Turn(place, _said_by(message), text, day))
    return turns


def _said_by(message: dict[str, Any]) -> str:
    """A name is one line, so that it begins no message of its own; a tool's is the name of a function."""
    name = str(message.get("name") or "") if message["role"] in NAMED else ""
    return " ".join(name.split()) or SPEAKERS[message["role"]]


def day_of(value: Any, what: str) -> datetime.date:
    """A day from a date, a time, seconds since the epoch, or ISO 8601.

    Raises
    ------
    InputError
        For anything else, naming `what` it is.
    """
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.datetime.fromtimestamp(value).date()
        if isinstance(value, str):
            return datetime.datetime.fromisoformat(value.strip()).date()
    except (ValueError, OverflowError, OSError):
        pass
    raise InputError(
        f"{what} is {quoted(value)}; expected a datetime.date, seconds since the epoch, or ISO 8601 such as "
        "'2026-03-09' or '2026-03-09T14:20:00'."
    )
