"""The regular times of series: the number of each time, and the time of each number.

Steps of hours and minutes have a fixed length. Steps of days and months are counted in local time, so that a day with 23
or 25 hours is one step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from airflow_mlops.core import zones
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data.moments import UTC
from airflow_mlops.stages.forecast_rows.spec import CALENDAR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Integers = NDArray[np.int64]

_MINUTE, _HOUR, _DAY = 60_000_000, 3_600_000_000, 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
# Months are combined with the time within a month, which is shorter than 2**42 microseconds.
_WITHIN = 45


@dataclass(frozen=True)
class Grid:
    """The times that are a whole number of steps apart.

    :param unit: unit of the length of a step
    :param count: number of units in a step
    :param zone: time zone in which months and days are counted, and of the calendar parts
    :param dates: whether the times are dates, which have no time zone
    """

    unit: Literal["months", "days", "minutes"]
    count: int
    zone: str
    dates: bool

    def numbers(self, times: Integers) -> tuple[Integers, Integers]:
        """Return the number of each time's step, and the distance of each time from the start of its step.

        Two times are a whole number of steps apart if their distances are equal. For steps of hours and minutes, or of
        days, a distance is in microseconds. For steps of months, it also contains the number of whole months.

        :param times: microseconds since 1970 in UTC, shape (n,)
        """
        if self.unit == "minutes":
            number, rest = np.divmod(times, self.count * _MINUTE)
            return number, rest
        local = self._local(times, self._of_the_day)
        if self.unit == "days":
            number, rest = np.divmod(local, self.count * _DAY)
            return number, rest
        months = local.view("M8[us]").astype("M8[M]")
        within = local - months.astype("M8[us]").view(np.int64)
        number, rest = np.divmod(months.view(np.int64), self.count)
        return number, (rest << _WITHIN) + within

    def times(self, numbers: Integers, rest: int) -> pa.Array:
        """Return the times with the given numbers, as dates or UTC timestamps.

        :param rest: distance of each time from the start of its step, from :meth:`numbers`
        """
        if self.unit == "minutes":
            micros = numbers * (self.count * _MINUTE) + rest
        elif self.unit == "days":
            micros = self._in_utc(numbers * (self.count * _DAY) + rest)
        else:
            months = numbers * self.count + (rest >> _WITHIN)
            start = months.view("M8[M]").astype("M8[us]").view(np.int64)
            micros = self._in_utc(start + (rest & ((1 << _WITHIN) - 1)))
        stamps = pa.array(micros).cast(pa.timestamp("us"))
        return stamps.cast(pa.date32()) if self.dates else stamps.cast(UTC)

    def calendar(self, times: pa.Array) -> dict[str, pa.Array]:
        """Return the calendar parts of times in local time. Monday has the weekday 0."""
        micros = times.cast(pa.timestamp("us")) if self.dates else times
        local = self._local(micros.cast(pa.int64()).to_numpy())
        months = local.view("M8[us]").astype("M8[M]")
        days = local // _DAY
        parts = {
            "target_month": months.view(np.int64) % 12 + 1,
            "target_day": days - months.astype("M8[D]").view(np.int64) + 1,
            # 1 January 1970 was a Thursday.
            "target_weekday": (days + 3) % 7,
            "target_hour": local // _HOUR % 24,
        }
        return {name: pa.array(parts[name]) for name in CALENDAR[self.unit]}

    def require_regular(self, first: int, other: int, what: str) -> None:
        """Check that the times with the distances ``first`` and ``other`` are a whole number of steps apart.

        :param what: subject of the error message: the column and its dataset
        :raises SchemaError: the times are not a whole number of steps apart; or steps are counted in months, and the
            times are after the 28th day of a month
        """
        if first != other:
            hint = " Check `zone`: days and months begin in this time zone." if self.unit != "minutes" else ""
            raise SchemaError(
                f"{what} has times that are not a whole number of steps apart: they lie {self._distance(first)} and "
                f"{self._distance(other)} after the start of a step. Round the times where the data is ingested, or correct `every`."
                f"{hint}"
            )
        if self.unit == "months" and first & ((1 << _WITHIN) - 1) >= 28 * _DAY:
            raise SchemaError(
                f"{what} has times after the 28th day of a month, which not all months have. Use the first day of each month."
            )

    def _distance(self, rest: int) -> str:
        months, micros = (rest >> _WITHIN, rest & ((1 << _WITHIN) - 1)) if self.unit == "months" else (0, rest)
        return f"{f'{months} months and ' if months else ''}{timedelta(microseconds=micros)}"

    def _local(self, times: Integers, convert: Callable[[datetime], datetime] | None = None) -> Integers:
        if self.dates or self.zone == zones.UTC:
            return times
        return _each(times, lambda moment: (convert or self._clock)(moment.replace(tzinfo=timezone.utc)))

    def _clock(self, moment: datetime) -> datetime:
        return zones.local(moment, self.zone)

    def _of_the_day(self, moment: datetime) -> datetime:
        """Return the local time. If clocks are turned forward at midnight, the first instant of the day counts as midnight."""
        local = self._clock(moment)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight if zones.instant(midnight, self.zone) == moment else local

    def _in_utc(self, local: Integers) -> Integers:
        if self.dates or self.zone == zones.UTC:
            return local
        return _each(local, lambda time: zones.instant(time, self.zone).replace(tzinfo=None))


def _each(micros: Integers, convert: Callable[[datetime], datetime]) -> Integers:
    # A history has few distinct times compared with its rows.
    distinct, places = np.unique(micros, return_inverse=True)
    start = EPOCH.replace(tzinfo=None)
    found = [(convert(start + timedelta(microseconds=int(each))) - start) // _MICROSECOND for each in distinct]
    return np.array(found, dtype=np.int64)[places]
