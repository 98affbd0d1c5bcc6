"""Choose one joined row for each event from the rows that Feast's join returned, and check it.

Feast's SQL returns the rows in any order. It returns several rows for an event if rows of the source have the same
time. As for files, the row that was created last is then chosen, and a row without a creation time counts as the
oldest. If several rows still qualify, the row with the greatest values is chosen, feature by feature, because the rows
of a table have no order. The result is therefore always the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError, LeakageError
from airflow_mlops.data import relational
from airflow_mlops.data.feast.declared import cast_feature
from airflow_mlops.data.feast.warehouse.view import EVENT, SqlView
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.spool import Rows


def typed(batch: pa.RecordBatch, view: SqlView) -> pa.RecordBatch:
    """Convert a batch of a warehouse: features get their declared types, and times are in UTC.

    :param batch: columns ``view.result``
    :return: number of the event, time, creation time if there is one, and the features, in the order of the request
    """
    name = view.request.view.name
    columns = {
        EVENT: batch.column(EVENT).cast(pa.int64()),
        "time": as_utc(batch.column(view.time), f"The time of the rows of feature view {name!r}"),
    }
    if view.created:
        what = f"The creation time of the rows of feature view {name!r}"
        columns["created"] = as_utc(batch.column(view.created), what)
    for number, (feature, column) in enumerate(view.features.items()):
        columns[f"f{number}"] = cast_feature(batch.column(column), view.request, feature)
    return pa.record_batch(columns)


def one_per_event(
    found: Rows, view: SqlView, times: pa.ChunkedArray, memory_limit: str | None, rows: int
) -> Iterator[pa.Table]:
    """Yield the features of every event, in the order of the events.

    :param found: rows of :func:`typed`, in any order
    :param times: event times in microseconds since 1970
    :param memory_limit: memory that DuckDB may use before it continues in temporary files
    :param rows: maximum number of rows that are sorted at once
    :return: tables with the columns ``alias:feature``
    :raises LeakageError: a row is newer than its event
    :raises FeatureStoreError: a row is older than the time to live, or the store did not return every event
    """
    request, start = view.request, 0
    for table in _first_of_each(_sorted(found, memory_limit, rows)):
        expected = np.arange(start, start + len(table))
        if not np.array_equal(table[EVENT].to_numpy(), expected):
            break
        _verify(table["time"], times.slice(start, len(table)), request.view)
        start += len(table)
        yield pa.table({f"{request.alias}:{name}": table[f"f{i}"] for i, name in enumerate(request.features)})
    if start != len(times):
        raise FeatureStoreError(
            f"Feast's offline store did not return event {start:,} of {len(times):,} for feature view "
            f"{request.view.name!r}. Report this defect with the installed version of feast."
        )


def _sorted(found: Rows, memory_limit: str | None, rows: int) -> Iterator[pa.RecordBatch]:
    created = [name for name in found.column_names if name == "created"]
    features = [
        f.name for f in found.schema if f.name not in (EVENT, "time", "created") and not pa.types.is_null(f.type)
    ]
    ties = "".join(f", {name} DESC NULLS LAST" for name in [*created, *features])
    sql = f"SELECT * FROM found ORDER BY {EVENT}{ties}"  # noqa: S608 - the names are generated here
    with relational.connect_bounded(memory_limit) as connection:
        tables = {"found": (found.schema, found.to_batches())}
        for batch in relational.stream(connection, sql, tables, rows=rows):
            yield pa.RecordBatch.from_arrays(
                [batch.column(field.name).cast(field.type) for field in found.schema], schema=found.schema
            )


def _first_of_each(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    last = -1
    for batch in batches:
        numbers = batch.column(EVENT).to_numpy()
        if len(numbers):
            new = np.diff(numbers, prepend=last) != 0
            last = int(numbers[-1])
            yield pa.Table.from_batches([batch]).filter(pa.array(new))


def _verify(found: pa.ChunkedArray, times: pa.ChunkedArray, view: Any) -> None:
    age = pc.subtract(times, found.cast(pa.int64()))
    name, ttl = view.name, view.ttl
    if newer := pc.sum(pc.less(age, 0)).as_py():
        raise LeakageError(
            f"Feast's offline store returned wrong rows: {newer:,} values of feature view {name!r} are newer than their "
            "events. Do not train on this data. Report this defect with the installed version of feast."
        )
    if ttl and pc.any(pc.greater(age, ttl // timedelta(microseconds=1))).as_py():
        raise FeatureStoreError(
            f"Feast's offline store returned wrong rows: values of feature view {name!r} are older than its ttl ({ttl}). "
            "Report this defect with the installed version of feast."
        )
