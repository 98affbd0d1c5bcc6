"""Summer time: events that follow local time occur one hour earlier in UTC during summer time.

Profiles count rows by hour in UTC and do not contain the time zone of the events. If the monitored window has a time
zone, the rule of this time zone applies. Otherwise the rules of four regions are tried. A rule gives the share ``s`` of
summer time in the time span of a sample. The counts of this sample by hour are a mixture: a share ``1 - s`` of the rows
lies in the usual hours, and a share ``s`` lies one hour earlier. Before a comparison, the counts of each sample are
mixed again, with the share of the other sample. Then both samples contain the same mixture, and any remaining
difference is drift.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

import numpy as np

from airflow_mlops.core import zones
from airflow_mlops.profiles.columns.base import Floats
from airflow_mlops.profiles.columns.timestamps import TimestampColumn

# One time zone for each of the most common rules of summer time.
_RULES = ("America/New_York", "Europe/Berlin", "Australia/Sydney", "America/Santiago")
# The time span of a column (TimestampColumn.span) is given in hours since this Monday.
_MONDAY = datetime(1969, 12, 29, tzinfo=timezone.utc)
_SAMPLES = 1_000
# Time zones cannot be applied to the first and the last day that datetime supports.
_SAFE_YEARS = range(2, 9999)
_LEAST_DIFFERENCE = 0.01


class SummerTime(NamedTuple):
    """The shares of summer time, from 0 to 1, in two samples.

    :param zone: time zone whose rule determines summer time
    :param reference: share of summer time in the reference
    :param current: share of summer time in the window
    """

    zone: str
    reference: float
    current: float


def differing(reference: TimestampColumn, current: TimestampColumn, zone: str | None = None) -> Iterator[SummerTime]:
    """Yield the shares of summer time in two columns, for each rule by which the two shares differ by more than 0.01.

    :param reference: profile of the reference column
    :param current: profile of the column in the window
    :param zone: time zone of the events, whose rule is the only one that is tried; ``None`` if the time zone is
        unknown, so that the rules of four regions are tried
    """
    for name in _RULES if zone is None else (zone,):
        try:
            shares = [_share(column, zones.zone(name)) for column in (reference, current)]
        except ValueError:
            continue
        if abs(shares[0] - shares[1]) > _LEAST_DIFFERENCE:
            yield SummerTime(name, *shares)


def mixed(counts: Floats, share: float) -> Floats:
    """Move a share of the counts of each hour of the week to the hour before.

    :param counts: number of rows by weekday and hour, shape (7, 24)
    :param share: share of the counts that are moved, from 0 to 1
    """
    return (1 - share) * counts + share * np.roll(counts.ravel(), -1).reshape(counts.shape)


def _share(column: TimestampColumn, zone: tzinfo) -> float:
    """Return the share of summer time in the time span of a column."""
    if column.span is None:
        return 0.0
    hours = np.unique(np.linspace(*column.span, _SAMPLES).astype(int)).tolist()
    instants = [_MONDAY + timedelta(hours=hour) for hour in hours]
    summer = [_is_summer(instant, zone) for instant in instants if instant.year in _SAFE_YEARS]
    return sum(summer) / len(summer) if summer else 0.0


def _is_summer(instant: datetime, zone: tzinfo) -> bool:
    """Return whether the clocks are ahead of the year's standard time.

    ``dst()`` is not used, because it is not positive in summer for zones such as Europe/Dublin, whose legal standard
    time is the summer time.
    """
    offsets = [datetime(instant.year, month, 1, tzinfo=zone).utcoffset() or timedelta(0) for month in (1, 7)]
    return (instant.astimezone(zone).utcoffset() or timedelta(0)) > min(offsets)
