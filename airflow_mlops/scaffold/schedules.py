"""Schedules of the proposed DAGs, derived from the times at which a window is complete and its labels are known."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_mlops.scaffold.answers import Every

KEY_FORMATS: dict[Every, str] = {"day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}


@dataclass(frozen=True)
class Schedule:
    """Arguments of ``CronPartitionTimetable``.

    :param cron: cron expression in the time zone of the windows
    :param offset: number of windows from the run to the window that it processes; negative
    """

    cron: str
    offset: int


def ingestion(every: Every) -> Schedule:
    """Return the schedule that processes each window three hours after its end."""
    return Schedule({"day": "0 3 * * *", "week": "0 3 * * 1", "month": "0 3 1 * *"}[every], -1)


def monitoring(every: Every, delay: int) -> Schedule:
    """Return the schedule that processes each window when its labels are known.

    :param every: length of a window
    :param delay: label delay in days. A run starts at least this many days after the end of its window, at 06:00
    """
    if every == "day":
        return Schedule("0 6 * * *", -1 - delay)
    if every == "week":
        weeks, days = divmod(delay, 7)
        return Schedule(f"0 6 * * {(1 + days) % 7}", -1 - weeks)
    # Each month has at least 28 days.
    months, days = divmod(delay, 28)
    return Schedule(f"0 6 {1 + days} * *", -1 - months)


def key(every: Every, at: datetime) -> str:
    """Return the partition key of the window that contains a point in time.

    :param at: the point in time, in the time zone of the windows
    """
    return at.strftime(KEY_FORMATS[every])


def start(every: Every, at: datetime) -> datetime:
    """Return the start of the window that contains a point in time.

    :param at: the point in time, in the time zone of the windows
    """
    day = {"day": at, "week": at - timedelta(days=at.weekday()), "month": at.replace(day=1)}[every]
    return day.replace(hour=0, minute=0, second=0, microsecond=0)


def last_complete(every: Every, first: datetime, last: datetime) -> str:
    """Return the partition key of the window before the one that contains ``last``.

    If ``first`` and ``last`` are in the same window, return the key of that window.
    """
    return key(every, max(first, start(every, last) - timedelta(seconds=1)))


def bounds(every: Every, first: datetime, last: datetime) -> tuple[datetime, datetime]:
    """Return the start of the window that contains ``first``, and the end of the window that contains ``last``."""
    # Each month is shorter than 32 days, so this time is in the next window.
    longest = {"day": timedelta(days=1), "week": timedelta(days=7), "month": timedelta(days=32)}[every]
    return start(every, first), start(every, start(every, last) + longest)
