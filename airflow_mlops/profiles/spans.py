"""Measure how often numeric features stay constant for whole hours, days, weeks, months or years of the training data.

A feature such as the month is constant in every month, a holiday flag in many months, and a working sensor in none.
Monitoring uses these shares to distinguish calendar features, which may be constant in a window, from stuck sensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.zones import UTC
from airflow_mlops.data.moments import as_utc, is_text, is_time
from airflow_mlops.data.types import as_numbers
from airflow_mlops.profiles.columns.base import decoded
from airflow_mlops.profiles.columns.numeric import is_numeric
from airflow_mlops.profiles.profile import ModelProfile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

Span = Literal["hour", "day", "week", "month", "year"]
_LONGEST: dict[Span, timedelta] = {
    "hour": timedelta(hours=1),
    # The day on which summer time ends has 25 hours.
    "day": timedelta(hours=25),
    "week": timedelta(days=7, hours=1),
    "month": timedelta(days=31, hours=1),
}


def span_of(length: timedelta) -> Span:
    """Return the shortest calendar span that is at least as long as a window of ``length``."""
    return next((span for span, longest in _LONGEST.items() if length <= longest), "year")


def with_constant_spans(
    known: ModelProfile, contract: ModelContract, dataset: Dataset, part: str | None
) -> ModelProfile:
    """Add the shares of calendar spans in which numeric features are constant to a model's profile.

    If the training set has no event time, or the model has no numeric feature, the profile is returned unchanged.

    :param known: the model's profile
    :param contract: model contract (features, label, ML task)
    :param dataset: the training set
    :param part: the split part whose rows are the reference, such as `train`; ``None`` for all rows
    """
    time, schema = contract.timestamp, dataset.schema
    if time is None or schema.get_field_index(time) < 0:
        return known
    if not (is_time(schema.field(time).type) or is_text(schema.field(time).type)):
        return known
    names = [
        feature.name
        for feature in contract.features
        if schema.get_field_index(feature.name) >= 0 and is_numeric(schema.field(feature.name).type)
    ]
    # The event time is left out, even if it is a feature.
    names = [name for name in names if name != time]
    if not names:
        return known
    # Dates are stored as midnight in UTC, so their spans begin in UTC.
    zone = dataset.window.zone if dataset.window is not None and not dataset.has_dates(time) else UTC
    return known.model_copy(update={"constant": constant_shares(dataset.batches(part, [time, *names]), time, zone)})


def constant_shares(batches: Iterable[pa.RecordBatch], time: str, zone: str = UTC) -> dict[str, dict[Span, float]]:
    """Return the share of calendar spans in which each numeric column has a single value.

    A span counts only if the column has at least two finite values in the span, and at least a tenth of the mean number
    of values per span. This rule excludes a first or last span of which the data cover only a short part, because any
    column may be constant in a short part. Memory grows with the number of spans and not with the number of rows.

    :param batches: rows with the column ``time`` and numeric columns
    :param time: name of the column with the event time
    :param zone: time zone in which days, weeks, months and years begin
    :return: by column and kind of span, the share of spans from 0 to 1. Kinds without a span that counts are left out
    :raises SchemaError: a value of ``time`` is not a point in time
    """
    names: list[str] = []
    found: dict[Span, _Ranges] = {}
    for batch in batches:
        # Spans are computed in local time, because a local day does not begin at the same time as a day in UTC.
        times = pc.local_timestamp(as_utc(batch.column(time), f"Column {time!r}").cast(pa.timestamp("us", zone)))
        names = names or [name for name in batch.schema.names if name != time]
        numbers = _Numbers(batch, names)
        for span in get_args(Span):
            part = numbers.ranges(pc.floor_temporal(times, unit=span))
            found[span] = part if span not in found else found[span].merged(part)
    shares: dict[str, dict[Span, float]] = {}
    for span, ranges in found.items():
        for name, share in zip(names, ranges.constant(), strict=True):
            if share is not None:
                shares.setdefault(name, {})[span] = share
    return shares


class _Ranges(NamedTuple):
    """The ranges of c columns in s spans.

    :param starts: start of each span, ascending, in microseconds, shape (s,)
    :param low: smallest finite value of each column in each span, shape (s, c); infinite if there is none
    :param high: largest finite value, shape (s, c); negative infinite if there is none
    :param rows: number of finite values, shape (s, c)
    """

    starts: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    rows: NDArray[np.int64]

    def merged(self, other: _Ranges) -> _Ranges:
        """Return the ranges of the rows of both."""
        low, high, rows = (np.concatenate(pair) for pair in zip(self[1:], other[1:], strict=True))
        order, first, starts = _grouped(np.concatenate([self.starts, other.starts]))
        return _Ranges(
            starts,
            np.minimum.reduceat(low[order], first, axis=0),
            np.maximum.reduceat(high[order], first, axis=0),
            np.add.reduceat(rows[order], first, axis=0),
        )

    def constant(self) -> list[float | None]:
        """Return for each column the share of the spans with a single value; ``None`` if no span counts."""
        present = (self.rows > 0).sum(axis=0)
        mean = self.rows.sum(axis=0) / np.maximum(1, present)
        counts = self.rows >= np.maximum(2.0, mean / 10)
        equal, all_spans = (counts & (self.low == self.high)).sum(axis=0), counts.sum(axis=0)
        return [same / total if total else None for same, total in zip(equal.tolist(), all_spans.tolist(), strict=True)]


class _Numbers:
    """The values of columns of a batch, as floating-point numbers."""

    def __init__(self, batch: pa.RecordBatch, names: Sequence[str]) -> None:
        self._columns = [_as_numbers(batch.column(name)) for name in names]

    def ranges(self, starts: pa.Array) -> _Ranges:
        """Return the range of each column in each span.

        :param starts: start of the span of each row; rows without an event time are left out
        """
        known = starts.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(known)
        order, first, spans = _grouped(starts.drop_null().cast(pa.int64()).to_numpy())
        shape = (len(spans), len(self._columns))
        low, high, counts = np.empty(shape), np.empty(shape), np.empty(shape, np.int64)
        for place, column in enumerate(self._columns if len(spans) else ()):
            values = column[rows[order]]
            finite = np.isfinite(values)
            low[:, place] = np.minimum.reduceat(np.where(finite, values, np.inf), first)
            high[:, place] = np.maximum.reduceat(np.where(finite, values, -np.inf), first)
            counts[:, place] = np.add.reduceat(finite, first, dtype=np.int64)
        return _Ranges(spans, low, high, counts)


def _as_numbers(values: pa.Array) -> NDArray[np.float64]:
    found: NDArray[np.float64] = (
        as_numbers(decoded(values)).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    )
    return found


def _grouped(starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return an order of the rows that groups equal starts, the first position of each group, and its start."""
    order = np.argsort(starts, kind="stable")
    found, first = np.unique(starts[order], return_index=True)
    return order, first, found
