"""Moments: points in time in UTC with microseconds, in the years 1 to 9999.

A moment can be written as ISO 8601 text:

- a date: ``2024-03-05``, ``20240305``, ``2024-065``, ``2024-W10-2``, ``2024-03`` or ``2024``;
- a date, ``T`` or a space, and a time: ``06:30:00``, ``06:30``, ``06`` or ``063000``. Seconds can have a fraction of 1
  to 9 digits;
- a date and a time with a time zone: ``Z``, ``+00``, ``+0000``, ``+00:00``, ``+00:00:00``, ``UTC`` or ``GMT``. A space
  before the time zone is allowed.

``24:00`` is the midnight at the end of the day, and a second 60 is the first second of the next minute. Text without a
time zone is read as UTC.

Any other text is an error. Ambiguous dates such as ``9/30/2024`` are not guessed. :mod:`airflow_mlops.data.moments`
converts columns of such text.
"""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last moment, in microseconds since 1970."""

TOO_EARLY, TOO_LATE = "is before the year 1 in UTC", "is after the year 9999 in UTC"

_ISO_8601 = re.compile(
    r"""
    (?P<year>\d{4})
    (?: -(?P<month>\d\d)(?:-(?P<day>\d\d))? | (?P<basic_month>\d\d)(?P<basic_day>\d\d)
      | -?W(?P<week>\d\d)(?:-?(?P<weekday>[1-7]))? | -?(?P<day_of_year>\d{3}) )?
    (?: [T\ ](?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?)?
      (?P<zone>\ ?(?:Z|UTC|GMT|(?P<sign>[+-])(?P<zone_hour>\d\d)(?::?(?P<zone_minute>\d\d)(?::?(?P<zone_second>\d\d))?)?))?
    )?
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_NOT_ISO_8601 = "is not a date or a point in time in ISO 8601"


class Instant(NamedTuple):
    """A point in time that was parsed from text.

    :param micros: microseconds since 1970, rounded down
    :param nanos: nanoseconds after ``micros``, 0 to 999
    :param naive: whether the text has no time zone
    """

    micros: int
    nanos: int
    naive: bool


def parse(text: str) -> datetime:
    """Parse ISO 8601 text.

    :return: the moment in UTC. Nanoseconds are rounded down
    :raises ValueError: ``text`` is not ISO 8601, or is outside the years 1 to 9999
    """
    try:
        found = parse_instant(text)
    except ValueError as error:
        raise ValueError(f"{text!r} {error}. Write it for example as 2024-03-05T06:30:00Z.") from None
    return EPOCH + timedelta(microseconds=found.micros)


def parse_instant(text: str) -> Instant:
    """Parse ISO 8601 text, as :func:`parse` does, without rounding.

    :raises ValueError: the text is not a moment. The message is a clause such as ``is after the year 9999``
    """
    found = _ISO_8601.fullmatch(text.strip())
    if found is None:
        raise ValueError(_NOT_ISO_8601)
    if found["year"] == "0000":
        raise ValueError(TOO_EARLY)
    try:
        day = _day(found)
    except ValueError:
        raise ValueError("is a date that does not exist") from None
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    fraction = (found["fraction"] or "").ljust(9, "0")
    end_of_day = hour == 24 and minute == second == int(fraction) == 0
    if (hour > 23 and not end_of_day) or minute > 59 or second > 60:
        raise ValueError("is a time that does not exist")
    offset = [int(found[f"zone_{name}"] or 0) for name in ("hour", "minute", "second")]
    if offset[0] > 23 or max(offset[1:]) > 59:
        raise ValueError("has a time zone that does not exist")
    east = (offset[0] * 3600 + offset[1] * 60 + offset[2]) * (-1 if found["sign"] == "-" else 1)
    seconds = (day.toordinal() - EPOCH.toordinal()) * 86_400 + hour * 3600 + minute * 60 + second - east
    micros = seconds * 1_000_000 + int(fraction[:6])
    if not FIRST <= micros <= LAST:
        raise ValueError(TOO_EARLY if micros < FIRST else TOO_LATE)
    return Instant(micros, int(fraction[6:]), found["zone"] is None)


def _day(found: re.Match[str]) -> date:
    """Return the day that a match of :data:`_ISO_8601` names. For a week, month or year, return the first day."""
    year = int(found["year"])
    whole = found["day"] or found["basic_day"] or found["weekday"] or found["day_of_year"]
    if found["hour"] and not whole:
        raise ValueError(_NOT_ISO_8601)
    if found["week"]:
        return date.fromisocalendar(year, int(found["week"]), int(found["weekday"] or 1))
    if found["day_of_year"]:
        day = date(year, 1, 1) + timedelta(days=int(found["day_of_year"]) - 1)
        if day.year != year:
            raise ValueError(_NOT_ISO_8601)
        return day
    return date(year, int(found["month"] or found["basic_month"] or 1), int(found["day"] or found["basic_day"] or 1))
