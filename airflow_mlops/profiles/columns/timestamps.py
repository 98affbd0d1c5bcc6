"""Timestamp and date columns, in UTC.

A change in the shares of rows per hour of the day or per weekday is drift, but the passing of time is not. Timestamps
are therefore counted by hour of the week, and dates by weekday. The counts are exact. Merging two profiles adds their
counts.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import parse
from airflow_mlops.profiles.columns.base import as_numpy, decoded, plain

DAYS, HOURS = 7, 24
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
# The epoch was a Thursday; weeks begin on Monday.
_EPOCH_WEEKDAY = 3
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
# The years 1 to 9999, which is the range of Python's datetime, in seconds since the epoch.
_FIRST = int((datetime(1, 1, 1, tzinfo=timezone.utc) - _EPOCH).total_seconds())
_END = int((datetime(9999, 12, 31, tzinfo=timezone.utc) - _EPOCH).total_seconds()) + 86_400

Kind = Literal["timestamp", "date"]


class TimestampColumn(Model):
    """The profile of a timestamp column or a date column. Timestamps without a time zone are read as UTC.

    :param rows: number of rows, including null rows
    :param missing: number of null rows
    :param outside: number of rows with a value outside the years 1 to 9999
    :param min: the oldest value within these years, as ISO 8601 text in UTC; ``None`` if there is none
    :param max: the newest value within these years, as ISO 8601 text in UTC; ``None`` if there is none
    :param counts: number of rows in each hour of the week, beginning on Monday at midnight, shape (168,). For dates:
        number of rows on each weekday, shape (7,)
    """

    kind: Kind
    rows: int
    missing: int
    outside: int
    min: str | None
    max: str | None
    counts: list[int]

    @property
    def valid(self) -> int:
        """Return the number of values within the years 1 to 9999."""
        return self.rows - self.missing - self.outside

    @property
    def span(self) -> tuple[int, int] | None:
        """Return the first and the last hour with a row, in hours since Monday, 29 December 1969.

        For dates, the unit is days. The result is ``None`` if no value lies within the years 1 to 9999.
        """
        if self.min is None or self.max is None:
            return None
        width = timedelta(hours=1) if self.kind == "timestamp" else timedelta(days=1)
        ends = [(parse(text) - _EPOCH + timedelta(days=_EPOCH_WEEKDAY)) // width for text in (self.min, self.max)]
        return ends[0], ends[1]


def timestamp_kind(data_type: pa.DataType) -> Kind | None:
    """Return the kind of profile for timestamps or dates; ``None`` if ``data_type`` is another type."""
    data_type = plain(data_type)
    if pa.types.is_timestamp(data_type):
        return "timestamp"
    return "date" if pa.types.is_date(data_type) else None


class TimestampCounter:
    """Computes the profile of a timestamp or date column from a stream of values."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.rows = self.missing = self.outside = 0
        self.oldest: datetime | None = None
        self.newest: datetime | None = None
        self.counts = np.zeros(DAYS * HOURS if kind == "timestamp" else DAYS, dtype=np.int64)

    def update(self, name: str, array: pa.Array) -> None:
        if timestamp_kind(array.type) != self.kind:
            raise SchemaError(
                f"Column {name!r} holds {self.kind}s in earlier rows and {array.type} in later rows: convert it to one type."
            )
        self.rows += len(array)
        self.missing += array.null_count
        values, per_second = _whole(decoded(array).drop_null())
        known = values[(values >= _FIRST * per_second) & (values < _END * per_second)]
        self.outside += len(values) - len(known)
        if not len(known):
            return
        per_day = 86_400 * per_second
        if self.kind == "timestamp":
            place = (known // (3_600 * per_second) + _EPOCH_WEEKDAY * HOURS) % (DAYS * HOURS)
        else:
            place = (known // per_day + _EPOCH_WEEKDAY) % DAYS
        self.counts += np.bincount(place, minlength=len(self.counts))
        self._reach(*(_after_epoch(int(end), per_second) for end in (known.min(), known.max())))

    def add(self, column: Any) -> None:
        self.rows += column.rows
        self.missing += column.missing
        self.outside += column.outside
        self.counts += np.asarray(column.counts)
        if column.min is not None:
            self._reach(parse(column.min), parse(column.max))

    def _reach(self, oldest: datetime, newest: datetime) -> None:
        self.oldest = oldest if self.oldest is None else min(self.oldest, oldest)
        self.newest = newest if self.newest is None else max(self.newest, newest)

    def result(self) -> TimestampColumn:
        return TimestampColumn(
            kind=self.kind,
            rows=self.rows,
            missing=self.missing,
            outside=self.outside,
            min=self._text(self.oldest),
            max=self._text(self.newest),
            counts=self.counts.tolist(),
        )

    def _text(self, instant: datetime | None) -> str | None:
        if instant is None:
            return None
        return instant.isoformat() if self.kind == "timestamp" else instant.date().isoformat()


def _whole(array: pa.Array) -> tuple[npt.NDArray[np.int64], int]:
    """Return the values as integers since the epoch, and the number of their units per second."""
    if pa.types.is_date32(array.type):
        return as_numpy(array.view(pa.int32())).astype(np.int64) * 86_400, 1
    unit = "ms" if pa.types.is_date64(array.type) else array.type.unit
    return as_numpy(array.view(pa.int64())), _PER_SECOND[unit]


def _after_epoch(value: int, per_second: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value * 1_000_000 // per_second)
