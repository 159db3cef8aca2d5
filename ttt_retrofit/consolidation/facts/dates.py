"""Days that were named by the day of the message ("yesterday", "vor zwei Wochen"), written out.

A library of dates in many languages finds them. It finds too much ("sat on a chair"), so what it finds counts only
where it moves with the day of the message: read eight weeks later, "yesterday" is eight weeks later, "3 May" is not.
And it counts only where one day is meant: "on Friday" may be the last or the next one, and stays as it was said.
"""

from __future__ import annotations

import datetime
import warnings

from .checks import caseless

LATER = datetime.timedelta(weeks=8)  # a weekday stays the same, a month and a day of a month do not
SHORTEST = 3  # letters: the library takes "We" for Wednesday


def with_days(text: str, said: datetime.date) -> str:
    """The text, with the day in brackets behind every expression that depends on the day it was said.

    Without the library (the extra "writer") the text is as it was: a fact says when it was said, too.
    """
    for phrase, day in relative_days(text, said):
        text = text.replace(phrase, f"{phrase} ({day.isoformat()})", 1)
    return text


def relative_days(text: str, said: datetime.date) -> list[tuple[str, datetime.date]]:
    """The expressions of a text that depend on the day it was said, each with the day that it means."""
    past = _found(text, said, "past")
    if not past:  # as most messages; looking takes the library a tenth of a second
        return []
    future, later = _found(text, said, "future"), _found(text, said + LATER, "past")
    return [
        (phrase, day)
        for phrase, day in past.items()
        if future.get(phrase) == day
        and later.get(phrase) == day + LATER
        and (caseless(phrase) or sum(c.isalpha() for c in phrase) >= SHORTEST)
    ]


def _found(text: str, said: datetime.date, towards: str) -> dict[str, datetime.date]:
    try:
        from dateparser.search import search_dates
    except ImportError:
        return {}
    base = datetime.datetime.combine(said, datetime.time())
    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": towards}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dates = search_dates(text, settings=settings) or []
    return {phrase: moment.date() for phrase, moment in dates}
