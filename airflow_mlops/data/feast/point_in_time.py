"""The point-in-time join of events with Parquet sources, by DuckDB's ``ASOF JOIN``.

Of the rows with the event's join keys, an event sees the newest one that is not newer than the event and, if the view
has a time to live, not older than that. Both bounds are inclusive. Of rows with the same time, the event sees the one
that was created last; of rows that are still equal, the last one in the source, in the order of file paths and of rows
in a file. A row without a time is never seen. A null join key matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, one_line
from airflow_mlops.data import relational
from airflow_mlops.data.feast.parquet_source import ParquetSource, Span, decoded
from airflow_mlops.data.timestamps import as_utc

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Later than every creation time and row number.
_LAST = 2**63 - 1
# Year 1, in microseconds since 1970.
_FIRST_TIME = -62_135_596_800_000_000


def join(
    sources: Sequence[ParquetSource], events: pa.Table, timestamp: str, memory_limit: str, batch_rows: int
) -> Iterator[pa.Table]:
    """Look up the features of every source for every event.

    :param events: join keys and event times
    :param timestamp: the column of the event times. Times finer than a microsecond are rounded down
    :param memory_limit: how much memory DuckDB may use before it continues on disk, for example ``2GB``
    :param batch_rows: the largest number of events in a table
    :return: tables with the columns ``alias:feature`` in the types of the sources, for consecutive slices of the events
    :raises FeatureStoreError: the join failed
    :raises LeakageError: the join returned a row that is newer than its event
    """
    import duckdb

    times = as_utc(events[timestamp], f"The event time {timestamp!r}").cast(pa.int64())
    columns = list(dict.fromkeys(column for source in sources for column in source.request.join_keys.values()))
    keys = {column: f"k{number}" for number, column in enumerate(columns)}
    left = {"n": np.arange(events.num_rows), "t": times} | {keys[name]: decoded(events[name]) for name in keys}
    with relational.connect(memory_limit) as connection:
        connection.register("events", pa.table(left))
        parts = [_Part(number, source) for number, source in enumerate(sources)]
        start = 0
        try:
            sql, parameters = _query(connection, parts, keys, times)
            for batch in connection.sql(sql, params=parameters).to_arrow_reader(batch_rows):
                found = pa.Table.from_batches([batch])
                for part in parts:
                    part.verify(found, times.slice(start, len(found)))
                start += batch.num_rows
                yield pa.table({ref: column for part in parts for ref, column in part.features(found)})
        except duckdb.OutOfMemoryException as error:
            raise FeatureStoreError(
                f"The point-in-time join needs more than {memory_limit} of memory: raise memory_limit "
                f"({one_line(error)})."
            ) from error
        except duckdb.Error as error:
            raise FeatureStoreError(f"The point-in-time join failed in DuckDB: {one_line(error)}.") from error


class _Part:
    """What one source adds to the query and to the result."""

    def __init__(self, number: int, source: ParquetSource) -> None:
        self._source = source
        self._view = source.request.view
        self._number = number
        ttl = self._view.ttl
        self._ttl = min(ttl // timedelta(microseconds=1), _LAST // 2) if ttl and ttl > timedelta(0) else None

    def features(self, found: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """The features as ``alias:feature``, in the types of the source."""
        request = self._source.request
        for i, name in enumerate(request.features):
            column = found[f"f{self._number}_{i}"]
            kind = self._source.dataset.schema.field(self._source.names[name]).type
            yield f"{request.alias}:{name}", column if pa.types.is_dictionary(kind) else column.cast(kind)

    def select(self) -> list[str]:
        """SQL for the columns of the result: the time of the row, and its features."""
        side = f"s{self._number}"
        features = range(len(self._source.request.features))
        columns = {f"t{self._number}": "t"} | {f"f{self._number}_{i}": f"f{i}" for i in features}
        if self._ttl is None:
            return [f"{side}.{column} AS {name}" for name, column in columns.items()]
        alive = f"{side}.t >= e.t - $ttl_{self._number}"
        return [f"CASE WHEN {alive} THEN {side}.{column} END AS {name}" for name, column in columns.items()]

    def join(
        self, connection: DuckDBPyConnection, keys: dict[str, str], times: pa.ChunkedArray
    ) -> tuple[str, dict[str, Any]]:
        """SQL for the join with this source, and its parameters."""
        side = f"s{self._number}"
        rows, parameters = self._source.relation(connection, self._number, self._span(times))
        if self._ttl is not None:
            parameters[f"ttl_{self._number}"] = self._ttl
        same = [f"e.{keys[column]} = {side}.k{i}" for i, column in enumerate(self._source.request.join_keys.values())]
        # The rows are ordered by time, then by what decides between rows with the same time.
        newest = f"ROW(e.t, {_LAST}, {_LAST}, {_LAST}) >= ROW({side}.t, {side}.created, {side}.file, {side}.row)"
        return f"ASOF LEFT JOIN ({rows}) {side} ON {' AND '.join([*same, newest])}", parameters

    def _span(self, times: pa.ChunkedArray) -> Span:
        bounds = pc.min_max(times).as_py()
        first, last = bounds["min"] or 0, bounds["max"] or 0
        # One microsecond more, because a row's time may be rounded up.
        first = None if self._ttl is None else first - self._ttl - 1
        return Span(first if first is not None and first > _FIRST_TIME else None, last)

    def verify(self, found: pa.Table, times: pa.ChunkedArray) -> None:
        """Check the ages of the rows that DuckDB chose: a training set must not hold anything newer than its events."""
        age = pc.subtract(times, found[f"t{self._number}"])
        newer = pc.sum(pc.less(age, 0)).as_py() or 0
        if newer:
            raise LeakageError(
                f"{newer} values of feature view {self._view.name!r} are newer than their events: the point-in-time join "
                "returned wrong rows. Do not train on them; report this with the version of duckdb."
            )
        if self._ttl is not None and pc.any(pc.greater(age, self._ttl)).as_py():
            raise FeatureStoreError(
                f"The point-in-time join returned values of feature view {self._view.name!r} that are older than its ttl."
            )


def _query(
    connection: DuckDBPyConnection, parts: Sequence[_Part], keys: dict[str, str], times: pa.ChunkedArray
) -> tuple[str, dict[str, Any]]:
    joins, parameters = [], {}
    for part in parts:
        join, values = part.join(connection, keys, times)
        joins.append(join)
        parameters.update(values)
    columns = ", ".join(column for part in parts for column in part.select())
    return f"SELECT {columns} FROM events e {' '.join(joins)} ORDER BY e.n", parameters  # noqa: S608 - names of our own
