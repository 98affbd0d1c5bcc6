"""Durations and calendar periods in the text forms that DAGs use."""

from __future__ import annotations

import calendar
import re
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

_UNITS = {"W": "weeks", "D": "days", "H": "hours", "MIN": "minutes", "T": "minutes", "S": "seconds"}
_PERIOD = re.compile(r"P(?=.)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?=.)(?:(\d+)H)?(?:(\d+)M)?)?")
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*$")


def parse_duration(value: Any) -> Any:
    """Convert text such as ``14D``, ``6h``, ``30min``, ``2W`` or ``90s`` to a ``timedelta``.

    Any other value is returned unchanged, so that pydantic validates it.
    """
    found = _DURATION.match(value) if isinstance(value, str) else None
    unit = _UNITS.get(found[2].upper()) if found else None
    return timedelta(**{unit: float(found[1])}) if found and unit else value


def _parsed(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
    try:
        return parse(parse_duration(value))
    except (ValidationError, OverflowError):
        raise ValueError(f"{value!r} is not a duration. Write it for example as 14D, 6h or 30min.") from None


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("A duration must be longer than zero. Write it for example as 14D, 6h or 30min.")
    return value


Duration = Annotated[timedelta, WrapValidator(_parsed), AfterValidator(_positive)]
"""A positive duration: ``14D``, ``6h``, ``30min``, ISO 8601 (``P14D``), a number of seconds or a ``timedelta``."""


def subtract_period(moment: datetime, period: str) -> datetime:
    """Subtract a :data:`Period` from ``moment``. One month before 31 March is the last day of February."""
    years, months, weeks, days, hours, minutes = _parts(period)
    total = moment.year * 12 + moment.month - 1 - 12 * years - months
    year, month = divmod(total, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    rest = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes)
    return moment.replace(year=year, month=month + 1, day=day) - rest


def add_period(moment: datetime, period: str) -> datetime:
    """Add a :data:`Period` to ``moment``. One month after 31 January is the last day of February.

    :raises ValueError: the result is after year 9999
    """
    years, months, weeks, days, hours, minutes = _parts(period)
    year, month = divmod(moment.year * 12 + moment.month - 1 + 12 * years + months, 12)
    try:
        day = min(moment.day, calendar.monthrange(year, month + 1)[1])
        rest = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes)
        return moment.replace(year=year, month=month + 1, day=day) + rest
    except (ValueError, OverflowError, IndexError) as error:
        raise ValueError(f"{period} after {moment} is later than the year 9999.") from error


def _parts(period: str) -> list[int]:
    found = _PERIOD.fullmatch(period)
    return [int(number or 0) for number in found.groups()] if found else []


def period_of_one_unit(period: str) -> tuple[Literal["months", "days", "minutes"], int]:
    """Return a :data:`Period` as a number of months, days or minutes.

    :raises ValueError: the period combines units that have no fixed ratio, such as months and days
    """
    years, months, weeks, days, hours, minutes = _parts(period)
    found: list[tuple[Literal["months", "days", "minutes"], int]] = [
        ("months", 12 * years + months),
        ("days", 7 * weeks + days),
        ("minutes", 60 * hours + minutes),
    ]
    used = [item for item in found if item[1]]
    if len(used) != 1:
        raise ValueError(f"{period!r} combines months, days or times. Write one of them, for example P1M, P7D or PT1H.")
    return used[0]


def is_period(text: str) -> bool:
    """Return whether ``text`` is an ISO 8601 period of whole years to minutes that is longer than zero."""
    return any(_parts(text))


def _calendar_period(value: str) -> str:
    if not is_period(value):
        raise ValueError(f"{value!r} is not a period. Write it in ISO 8601, for example P1Y, P1M, P7D, P52W or PT24H.")
    return value


Period = Annotated[str, AfterValidator(_calendar_period)]
"""A period in ISO 8601, such as ``P1Y`` or ``P7D``, in whole units. The smallest unit is the minute. Years and months
are calendar years and months."""
