"""Days that were named by the day of the message ("yesterday", "vor zwei Wochen"), written out.

A library of dates in many languages finds them. It finds too much ("sat on a chair"), so what it finds counts only
where it moves with the day of the message: read eight weeks later, "yesterday" is eight weeks later, "3 May" is not.
And it counts only where one day, month or year is meant: "on Friday" may be the last or the next one, and stays as it
was said. So does "now", which is of the day that the fact itself has.
"""

from __future__ import annotations

import datetime
import warnings

from .checks import caseless
from .languages import nearest

LATER = datetime.timedelta(weeks=8)  # a weekday stays the same, a month and a day of a month do not
SHORTEST = 3  # letters: the library takes "We" for Wednesday
KNOWN_TO = {"year": 4, "month": 7}  # characters of an ISO date: of "this year", the year is known


def with_days(text: str, said: datetime.date) -> str:
    """The text, with the date in brackets behind every expression that depends on the day it was said.

    Without the library (the extra "writer") the text is as it was: a fact says when it was said, too.
    """
    for phrase, day in relative_days(text, said):
        text = text.replace(phrase, f"{phrase} ({day})", 1)
    return text


def relative_days(text: str, said: datetime.date) -> list[tuple[str, str]]:
    """The expressions of a text that depend on the day it was said, each with the day, the month or the year that it
    means (ISO 8601).
    """
    language = nearest(text).code
    past = _found(text, said, "past", language)
    if not past:  # as most messages; looking takes the library a tenth of a second
        return []
    future, later = _found(text, said, "future", language), _found(text, said + LATER, "past", language)
    moving = [
        phrase
        for phrase, day in past.items()
        if future.get(phrase) == day
        and later.get(phrase) == day + LATER
        and (caseless(phrase) or sum(c.isalpha() for c in phrase) >= SHORTEST)
    ]
    dated = [_dated(phrase, said, language) for phrase in moving]
    return [one for one in dated if one is not None]


def _found(text: str, said: datetime.date, towards: str, language: str) -> dict[str, datetime.date]:
    try:
        from dateparser.search import search_dates
    except ImportError:
        return {}
    base = datetime.datetime.combine(said, datetime.time())
    settings = {"RELATIVE_BASE": base, "PREFER_DATES_FROM": towards}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dates = search_dates(text, languages=[language], settings=settings) or []
    return {phrase: moment.date() for phrase, moment in dates}


def _dated(phrase: str, said: datetime.date, language: str) -> tuple[str, str] | None:
    """The phrase without a word too much, and its date as far as it is known; None of "in an hour"."""
    from dateparser.date import DateDataParser

    base = datetime.datetime.combine(said, datetime.time())
    parser = DateDataParser(
        languages=[language],
        settings={"RELATIVE_BASE": base, "RETURN_TIME_AS_PERIOD": True},
        try_previous_locales=False,
    )
    found = parser.get_date_data(phrase)
    shorter, _, last = phrase.rpartition(" ")
    if len(last) < SHORTEST and parser.get_date_data(shorter).date_obj == found.date_obj:  # "ayer a" León
        phrase = shorter
    if found.date_obj is None or (found.period == "time" and found.date_obj.date() == said):
        return None
    return phrase, found.date_obj.date().isoformat()[: KNOWN_TO.get(found.period)]
