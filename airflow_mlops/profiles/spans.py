"""Measure how often numeric features stay constant for whole hours, days, weeks, months or years of the training data.

A feature such as the month is constant in every month, a holiday flag in many months, and a working sensor in none.
Monitoring uses these shares to distinguish calendar features, which may be constant in a window, from stuck sensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, get_args

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
    of values per span. This rule excludes a first or last span of which the data cover only a short part: any column
    may be constant there. Memory grows with the number of spans and not with the number of rows.

    :param batches: rows with the column ``time`` and numeric columns
    :param time: name of the column with the event time
    :param zone: time zone in which days, weeks, months and years begin
    :return: by column and kind of span, the share of spans from 0 to 1. Kinds without a span that counts are left out
    :raises SchemaError: a value of ``time`` is not a point in time
    """
    found: dict[tuple[str, Span], pa.Table] = {}
    for batch in batches:
        # Spans are computed in local time, because a local day begins at another time than a day in UTC.
        times = pc.local_timestamp(as_utc(batch.column(time), f"Column {time!r}").cast(pa.timestamp("us", zone)))
        for span in get_args(Span):
            starts = pc.floor_temporal(times, unit=span)
            for name in batch.schema.names:
                if name != time:
                    part = _ranges(starts, batch.column(name))
                    before = found.get((name, span))
                    found[name, span] = part if before is None else _merged(pa.concat_tables([before, part]))
    shares: dict[str, dict[Span, float]] = {}
    for (name, span), ranges in found.items():
        if not ranges.num_rows:
            continue
        least = max(2.0, pc.mean(ranges["rows"]).as_py() / 10)
        counted = ranges.filter(pc.greater_equal(ranges["rows"], least))
        if counted.num_rows:
            equal = pc.sum(pc.equal(counted["low"], counted["high"])).as_py()
            shares.setdefault(name, {})[span] = equal / counted.num_rows
    return shares


def _ranges(starts: pa.Array, values: pa.Array) -> pa.Table:
    numbers = as_numbers(decoded(values)).cast(pa.float64(), safe=False)
    table = pa.table({"start": starts, "low": numbers, "high": numbers, "rows": pa.repeat(pa.scalar(1), len(values))})
    finite = pc.and_(pc.is_valid(starts), pc.fill_null(pc.is_finite(numbers), False))
    return _merged(table.filter(finite))


def _merged(table: pa.Table) -> pa.Table:
    merged = table.group_by("start").aggregate([("low", "min"), ("high", "max"), ("rows", "sum")])
    return merged.select(["start", "low_min", "high_max", "rows_sum"]).rename_columns(["start", "low", "high", "rows"])
