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

SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool", "function": "Tool"}
SILENT = ("system", "developer")  # roles of the application


@dataclass(frozen=True)
class Turn:
    """One message that says something."""

    place: int  # of the message in the conversation, from 0
    said_by: str  # "User", "Assistant" or "Tool"
    text: str
    date: datetime.date

    @cached_property
    def dated(self) -> str:
        """The text with relative days written out, by which it is understood on any other day."""
        return with_days(self.text, self.date)


def turns_of(messages: Sequence[Any], date: datetime.date | str | None = None) -> list[Turn]:
    """The messages that say something, each with its day.

    Parameters
    ----------
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
            turns.append(Turn(place, SPEAKERS[role], text, day))
    return turns


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
