"""Functions that parse time windows from text, and format them as text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from typing import NamedTuple

from airflow_mlops.core import moments
from airflow_mlops.core.durations import add_period, is_period
from airflow_mlops.core.zones import UTC, instant, is_unique, local, zone

_YEAR = re.compile(r"(\d{4})")
_QUARTER = re.compile(r"(\d{4})-?Q([1-4])")
_MONTH = re.compile(r"(\d{4})-(\d\d)")
_WEEK = re.compile(r"(\d{4})-?W(\d\d)")
# The default format of Airflow's StartOfWeekMapper, such as 2013-04-01 (W14).
_MONDAY = re.compile(r"(\d{4}-\d\d-\d\d) \(W(\d\d)\)")
_DAY = re.compile(r"\d{4}-\d\d-\d\d|\d{8}")
_OFFSET = r"(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?"
_HOUR = re.compile(rf"(?P<day>\d{{4}}-\d\d-\d\d|\d{{8}})[T ](?P<time>\d\d)\s?{_OFFSET}")
_ZONED = re.compile(r"(.*)\[([^\[\]]+)\]", re.DOTALL)

_ENDS = re.compile(r"\.\.|/")
_CLOCK_CHANGE = timedelta(hours=3)

FORMS = (
    "Write a year (2013), quarter (2013-Q2), month (2013-04), ISO week (2013-W14), day (2013-04-01) or hour (2013-04-01T06), "
    "a range that includes both ends (2013-01..2013-04), two instants of which the second is not included "
    "(2013-01-01T00:00Z/2013-02-01T00:00Z), or an instant and a length (2013-01-01T00:00Z/P1D)"
)


INSTANT_FORMS = (
    "Write a date or time in ISO 8601, such as 2013-04-01, 2013-04-01T06:00Z or 2013-04-01T06:00+02:00. A year, quarter, "
    "month, ISO week or day stands for its first instant"
)


class UnreadableError(ValueError):
    """Raised if a text is not a time.

    :param text: the text
    :param reason: the reason, as a clause
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"{text!r} is not a time window: {reason}. {FORMS}.")
        self.text = text
        self.reason = reason


@dataclass(frozen=True)
class Calendar:
    """The properties of a DAG run that determine how the text of a window is read.

    :param zone: time zone of a text that names no time zone
    :param period: length, in ISO 8601, of a window that is written as one calendar period or instant; ``None`` if the
        text or ``ends`` determines the length
    :param key: partition key of the run; ``None`` if the run has none
    :param key_start: instant at which the partition ``key`` begins; ``None`` if it is unknown
    :param ends: the end of each known partition or data interval, by its start
    :param cadence: length of the shortest partition of the timetable; ``None`` if the length is unknown
    :param ds: the day ``{{ ds }}`` in UTC, and the day of the run in ``zone``; ``None`` if both are the same day
    """

    zone: str = UTC
    period: str | None = None
    key: str | None = None
    key_start: datetime | None = None
    ends: Mapping[datetime, datetime] = field(default_factory=dict)
    cadence: timedelta | None = None
    ds: tuple[str, str] | None = None


UTC_CALENDAR = Calendar()


class Span(NamedTuple):
    """A half-open time interval in UTC, and the time zone in which it was written."""

    start: datetime
    end: datetime
    zone: str


def parse(text: str, calendar: Calendar = UTC_CALENDAR) -> Span:
    """Parse the text of a window.

    :param text: the text, in one of the forms of :class:`~airflow_mlops.core.windows.Window`
    :param calendar: properties of the DAG run. By default, a text without a time zone is read as UTC
    :raises ValueError: the text is not a window, or the length of the window is unknown
    """
    text = text.strip()
    named = None if _has_own_format(text, calendar) else _ZONED.fullmatch(text)
    name = named[2].strip() if named else calendar.zone
    zone(name)
    if named is None:
        _check_day(text, calendar)
    start, end = _bounds(named[1].strip() if named else text, name, calendar)
    if end <= start:
        hint = ""
        if end == start and "/" in text:
            hint = (
                " In Airflow 3 a run of a cron schedule such as @daily has an empty data interval: schedule the DAG with "
                "CronDataIntervalTimetable, or with CronPartitionTimetable and use {{ partition_key }}."
            )
        raise ValueError(f"Window {text} is empty. Write an end that is later than the start.{hint}")
    return Span(start, end, name)


def _check_day(text: str, calendar: Calendar) -> None:
    if calendar.ds is None or calendar.ds[0] not in (part.strip() for part in _ENDS.split(text)):
        return
    day, local = calendar.ds
    raise ValueError(
        f"The window {text!r} contains {{{{ ds }}}}. Airflow renders {{{{ ds }}}} in UTC as {day}, but the day of the "
        f"run in the DAG's time zone {calendar.zone} is {local}. Write "
        f"{{{{ logical_date.in_timezone({calendar.zone!r}) | ds }}}} for {local}, or {{{{ ds }}}}[UTC] for {day}."
    )


def _has_own_format(text: str, calendar: Calendar) -> bool:
    """Return whether ``text`` is a partition key with a known start.

    Such a key is not parsed, because a user-defined format may contain slashes and brackets.
    """
    return text == calendar.key and calendar.key_start is not None


def _bounds(text: str, name: str, calendar: Calendar) -> tuple[datetime, datetime]:
    if ".." in text:
        first, _, last = (part.strip() for part in text.partition(".."))
        return _bounds(first, name, calendar)[0], _bounds(last, name, calendar)[1]
    if "/" in text and not _has_own_format(text, calendar):
        first, _, last = (part.strip() for part in text.partition("/"))
        start = parse_instant(first, name, calendar)
        return start, _later(start, last, name) if is_period(last) else parse_instant(last, name, calendar)
    found = _form(text, name, calendar)
    if found is not None and text == calendar.key:
        _check_key(*found, calendar)
    if calendar.period is None and found is not None:
        return found
    start = found[0] if found is not None else parse_instant(text, name, calendar)
    if calendar.period is not None:
        end = _later(start, calendar.period, name)
        if found is not None and end < found[1]:
            raise ValueError(
                f"{text!r} has the form of a window of {_duration(found[1] - start)}, but period={calendar.period!r} is "
                "shorter. Remove period=, or write the window as its first instant."
            )
        return start, end
    if start not in calendar.ends:
        raise ValueError(
            f"{text!r} is a point in time, and neither its form nor the DAG's schedule defines how long the window is. "
            f"Set period=, for example period='P1D', or write {text}/P1D."
        )
    return start, calendar.ends[start]


def _check_key(start: datetime, end: datetime, calendar: Calendar) -> None:
    """Check that the window in the partition key agrees with the DAG's timetable.

    :raises ValueError: the partition begins outside the window, or the timetable's partitions are longer
    """
    if calendar.key_start is not None and not start <= calendar.key_start < end:
        raise ValueError(
            f"The partition {calendar.key!r} begins at {_iso(calendar.key_start)}. In the time zone {calendar.zone}, the "
            f"partition key names the window {_iso(start)}/{_iso(end)}, which does not contain this time. Name the "
            f"time zone of the key, for example window='{{{{ partition_key }}}}[Europe/Berlin]'."
        )
    # Changes of the clocks make a day up to three hours shorter or longer.
    if calendar.period is None and calendar.cadence is not None and calendar.cadence > end - start + _CLOCK_CHANGE:
        raise ValueError(
            f"The partition key {calendar.key!r} has the form of a window of {_duration(end - start)}, but the partitions "
            f"of the DAG's timetable are at least {_duration(calendar.cadence)} long. Set period= to the length of a "
            "partition, for example period='P1M', or change key_format= of the timetable."
        )


def parse_instant(text: str, name: str = UTC, calendar: Calendar = UTC_CALENDAR) -> datetime:
    """Parse a point in time. A year, quarter, month, week, day or hour stands for its first instant.

    :param text: the text
    :param name: time zone of a text without an offset
    :param calendar: properties of the DAG run
    :raises ValueError: the text is not a point in time
    """
    text = text.strip()
    if text == calendar.key and calendar.key_start is not None:
        return calendar.key_start
    if (found := _form(text, name, calendar)) is not None:
        return found[0]
    try:
        moment = moments.parse_instant(text)
    except ValueError as error:
        if text in ("", "None"):
            reason = _NO_KEY if calendar.key is None else "a template has no value."
            raise ValueError(f"{text!r} is not a window: {reason}") from None
        raise UnreadableError(text, f"it {error}") from None
    if moment.nanos:
        raise ValueError(f"{text!r} has more than 6 digits of a second. Write whole microseconds.")
    utc = moments.EPOCH + timedelta(microseconds=moment.micros)
    return _to_utc(utc.replace(tzinfo=None), name, text) if moment.naive else utc


def parse_moment(text: str, calendar: Calendar = UTC_CALENDAR) -> datetime:
    """Parse a point in time that is not a part of a window, such as the time for which a snapshot is read.

    This function reads the same forms as :func:`parse_instant`. Its error message lists only these forms, and not the
    forms of windows.

    :param calendar: properties of the DAG run
    :raises ValueError: the text is not a point in time. The message lists the valid forms
    """
    try:
        return parse_instant(text, calendar.zone, calendar)
    except UnreadableError as error:
        raise ValueError(f"{error.text!r} is not a point in time: {error.reason}. {INSTANT_FORMS}.") from None


_NO_KEY = (
    "this run has no partition key, for example because it was triggered by hand. Trigger the DAG with a partition "
    "key, or write the window without {{ partition_key }}."
)


def _form(text: str, name: str, calendar: Calendar = UTC_CALENDAR) -> tuple[datetime, datetime] | None:
    """Return start and end of a calendar period, or ``None`` if ``text`` is not written as a calendar period."""
    days = _days(text)
    if days is not None:
        first, after = days
        return instant(datetime(first.year, first.month, first.day), name), _midnight(after, name, text)
    if (found := _HOUR.fullmatch(text)) is not None:
        hour = _clock(_date(found["day"], text), found["time"], text)
        if text == calendar.key and calendar.key_start is not None and not is_unique(hour, name):
            # When clocks are turned back, the key names two hours. The start of the partition determines which of them
            # is meant.
            known = calendar.key_start.astimezone(zone(name))
            start = calendar.key_start - timedelta(minutes=known.minute, seconds=known.second)
        else:
            start = instant(hour, found["offset"]) if found["offset"] else _to_utc(hour, name, text)
        return start, _shift(start, timedelta(hours=1), text)
    return None


def _days(text: str) -> tuple[date, date | None] | None:
    """Return the first day of a calendar period and the day after its last day.

    The result is ``None`` if ``text`` is not a period of whole days. The second day is ``None`` if it is after year
    9999.
    """
    try:
        if found := _YEAR.fullmatch(text):
            return date(int(found[1]), 1, 1), _month(int(found[1]), 13)
        if found := _QUARTER.fullmatch(text):
            year, month = int(found[1]), int(found[2]) * 3 - 2
            return date(year, month, 1), _month(year, month + 3)
        if found := _MONTH.fullmatch(text):
            return date(int(found[1]), int(found[2]), 1), _month(int(found[1]), int(found[2]) + 1)
        if found := _WEEK.fullmatch(text):
            return _plus(date.fromisocalendar(int(found[1]), int(found[2]), 1), 7)
        if found := _MONDAY.fullmatch(text):
            monday = date.fromisoformat(found[1])
            if monday.isocalendar()[1:] != (int(found[2]), 1):
                raise ValueError(f"{found[1]} is not the Monday of week {found[2]}")
            return _plus(monday, 7)
        if _DAY.fullmatch(text):
            return _plus(_iso_date(text), 1)
    except ValueError as error:
        raise UnreadableError(text, str(error)) from error
    return None


def _plus(first: date, days: int) -> tuple[date, date | None]:
    return first, first + timedelta(days) if first <= date.max - timedelta(days) else None


def _month(year: int, month: int) -> date | None:
    year, month = year + (month - 1) // 12, (month - 1) % 12 + 1
    return date(year, month, 1) if year <= date.max.year else None


def _midnight(day: date | None, name: str, text: str) -> datetime:
    if day is None:
        raise ValueError(f"Window {text} ends after the year 9999. Write an earlier window.")
    return instant(datetime(day.year, day.month, day.day), name)


def _iso_date(text: str) -> date:
    return date.fromisoformat(text if "-" in text else f"{text[:4]}-{text[4:6]}-{text[6:]}")


def _date(text: str, whole: str) -> date:
    try:
        return _iso_date(text)
    except ValueError as error:
        raise ValueError(f"{whole!r} is not a point in time: {error}.") from error


def _clock(day: date, hour: str, text: str) -> datetime:
    try:
        return datetime(day.year, day.month, day.day, int(hour))
    except ValueError as error:
        raise ValueError(f"{text!r} is not a point in time: {error}.") from error


def _to_utc(time: datetime, name: str, text: str) -> datetime:
    if not is_unique(time, name):
        raise ValueError(
            f"{text!r} occurs twice or not at all in the time zone {name}, because the clocks change. Write the offset, "
            f"for example {text}+01:00."
        )
    return instant(time, name)


def _later(start: datetime, period: str, name: str) -> datetime:
    """Add an ISO 8601 period to ``start``.

    Days and longer units are added in local time. Hours and minutes are added as elapsed time.
    """
    days, _, times = period.partition("T")
    end = start
    if days != "P":
        end = instant(add_period(local(start, name), days), name)
    return add_period(end, f"PT{times}") if times else end


def _shift(moment: datetime, by: timedelta, text: str) -> datetime:
    try:
        return moment + by
    except OverflowError as error:
        raise ValueError(f"Window {text} ends after the year 9999. Write an earlier window.") from error


def label(start: datetime, end: datetime, name: str) -> str | None:
    """Return the short text of a calendar period, such as ``2013-04``, in the time zone ``name``.

    :func:`parse` reads the text as the same window. The result is ``None`` if the window is not one calendar period.
    """
    first = local(start, name)
    year, day = f"{first.year:04}", first.date().isoformat()
    iso_year, week, _ = first.isocalendar()
    month = f"{year}-{first.month:02}"
    quarter, monday = f"{year}-Q{(first.month + 2) // 3}", f"{iso_year:04}-W{week:02}"
    for text in (year, quarter, month, monday, day, f"{day}T{first.hour:02}"):
        try:
            if _form(text, name) == (start, end):
                return text
        except ValueError:
            continue
    return None


def _iso(value: datetime) -> str:
    return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def _duration(length: timedelta) -> str:
    hours = round(length / timedelta(hours=1))
    return (
        f"{round(hours / 24)} days"
        if hours > 36
        else "a day"
        if hours >= 20
        else f"{hours} hours"
        if hours > 1
        else "an hour"
    )
