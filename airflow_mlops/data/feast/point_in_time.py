"""The point-in-time join of events with Parquet sources, by DuckDB's ``ASOF JOIN``.

An event is joined to the newest row that has the same join keys and is not newer than the event. If the view has a time
to live (TTL), the age of the row must not exceed the TTL. Both bounds are inclusive. Of several rows with the same
time, the row with the latest creation time is joined. If the creation times are equal too, the last row in the order of
file paths and rows is joined. A row without a time is never joined, and a null join key matches no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, one_line
from airflow_mlops.data import relational
from airflow_mlops.data.feast.parquet_source import ParquetSource, Span, common_scale, decoded
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.spool import Rows

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

# Greater than every creation time, and every place of a row in the files.
_LAST = 2**63 - 1
# Most digits of a decimal in DuckDB.
_DIGITS = 38
# Year 1, in microseconds since 1970.
_FIRST_TIME = -62_135_596_800_000_000


def join(
    sources: Sequence[ParquetSource],
    events: pa.Table | Rows,
    timestamp: str,
    memory_limit: str | None,
    batch_rows: int,
    connect: Callable[[str | None], AbstractContextManager[DuckDBPyConnection]] = relational.connect_bounded,
) -> Iterator[pa.Table]:
    """Look up the features of every source for every event.

    :param sources: sources of the feature views
    :param events: table with the join keys and the event times
    :param timestamp: name of the event time column. Nanoseconds are rounded down to microseconds
    :param memory_limit: memory that DuckDB may use before it continues in temporary files, for example ``2GB``
    :param batch_rows: maximum number of events in a returned table
    :param connect: function that opens the database that joins
    :return: tables with the columns ``alias:feature`` in the types of the sources, for consecutive slices of the events
    :raises FeatureStoreError: the join failed, or returned a row that is older than the view's time to live
    :raises LeakageError: the join returned a row that is newer than its event
    """
    import duckdb

    moments = events.select([timestamp])

    def times(start: int, length: int) -> pa.ChunkedArray:
        column = moments.slice(start, length)[timestamp]
        return as_utc(column, f"The event time {timestamp!r}", first_row=start).cast(pa.int64())

    columns = list(dict.fromkeys(column for source in sources for column in source.request.join_keys.values()))
    keys = {column: f"k{number}" for number, column in enumerate(columns)}
    in_time = {source.request.join_keys[key] for source in sources for key in source.times_in_keys}
    chosen = events.select(columns)

    def left(start: int) -> pa.RecordBatch:
        table = chosen.slice(start, batch_rows)
        part = times(start, batch_rows)
        found = {"n": np.arange(start, start + len(part)), "t": part.combine_chunks()}
        for name, key in keys.items():
            values = (
                as_utc(table[name], f"Join key {name!r} of the events") if name in in_time else decoded(table[name])
            )
            found[key] = values.combine_chunks()
        return pa.record_batch(found)

    starts = range(0, events.num_rows, batch_rows)
    bounds = [pc.min_max(times(start, batch_rows)).as_py() for start in starts]
    first = min((item["min"] for item in bounds if item["min"] is not None), default=0)
    last = max((item["max"] for item in bounds if item["max"] is not None), default=0)
    streamed = (left(start) for start in starts)
    with connect(memory_limit) as connection:
        parts = [_Part(number, source, events.schema) for number, source in enumerate(sources)]
        start = 0
        try:
            sql, parameters = _query(connection, parts, keys, first, last)
            tables = {"events": (left(events.num_rows).schema, streamed)}
            for batch in relational.stream(connection, sql, tables, parameters=parameters, rows=batch_rows):
                found = pa.Table.from_batches([batch])
                passed = times(start, len(found))
                for part in parts:
                    part.verify(found, passed)
                start += batch.num_rows
                yield pa.table({ref: column for part in parts for ref, column in part.features(found)})
        except duckdb.Error as error:
            if relational.is_disk_full(error):
                raise
            if isinstance(error, duckdb.OutOfMemoryException):
                raise FeatureStoreError(
                    f"The point-in-time join needs more memory than its limit of {memory_limit or relational.default_memory(most=relational.JOIN_MEMORY)} "
                    f"({one_line(error)}). Increase `memory_limit`."
                ) from error
            raise FeatureStoreError(
                f"The point-in-time join failed in DuckDB: {one_line(error)}. Check the files of the feature views' "
                "sources."
            ) from error


class _Part:
    """One source of the join. It builds the SQL for the source, and reads the source's features from the result.

    :param number: number of the source
    :param source: the source
    :param events: schema of the events
    """

    def __init__(self, number: int, source: ParquetSource, events: pa.Schema) -> None:
        self._source, self._events = source, events
        self._view = source.request.view
        self._number = number
        self._ttl = _ttl(source)

    def features(self, found: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray]]:
        """Yield pairs of ``alias:feature`` and the feature's column, in the type of the source."""
        request = self._source.request
        for i, name in enumerate(request.features):
            column = found[f"f{self._number}_{i}"]
            kind = self._source.dataset.schema.field(self._source.names[name]).type
            yield f"{request.alias}:{name}", column if pa.types.is_dictionary(kind) else column.cast(kind)

    def select(self) -> list[str]:
        """Build the SQL for the time and the features of the joined row; null if the row is older than the TTL."""
        side = f"s{self._number}"
        features = range(len(self._source.request.features))
        columns = {f"t{self._number}": "t"} | {f"f{self._number}_{i}": f"f{i}" for i in features}
        if self._ttl is None:
            return [f"{side}.{column} AS {name}" for name, column in columns.items()]
        alive = f"{side}.t >= e.t - $ttl_{self._number}"
        return [f"CASE WHEN {alive} THEN {side}.{column} END AS {name}" for name, column in columns.items()]

    def join(
        self, connection: DuckDBPyConnection, keys: dict[str, str], first: int, last: int
    ) -> tuple[str, dict[str, Any]]:
        """Build the SQL clause that joins this source, and return it with its parameters.

        :param connection: the DuckDB connection
        :param keys: name of each join key column in the query
        :param first: time of the first event in microseconds since 1970
        :param last: time of the last event
        """
        side = f"s{self._number}"
        rows, parameters = self._source.relation(connection, self._number, span_of(self._source, first, last))
        if self._ttl is not None:
            parameters[f"ttl_{self._number}"] = self._ttl
        same = [
            self._same(key, column, f"e.{keys[column]}", f"{side}.k{i}")
            for i, (key, column) in enumerate(self._source.request.join_keys.items())
        ]
        # Rows are compared by time and, if their times are equal, by creation time and place in the files.
        order = ["t", *(["created"] if self._source.created else []), "place"]
        newest = f"ROW({', '.join(['e.t', *[str(_LAST)] * (len(order) - 1)])}) >= ROW({', '.join(f'{side}.{name}' for name in order)})"
        return f"ASOF LEFT JOIN ({rows}) {side} ON {' AND '.join([*same, newest])}", parameters

    def _same(self, key: str, column: str, one: str, other: str) -> str:
        """Build the SQL condition that two join keys are equal.

        DuckDB itself ends a comparison of a decimal with many digits after the point and a large number with an error.
        """
        own, kind = self._source.dataset.schema.field(self._source.names[key]).type, self._events.field(column).type
        scale = common_scale(own, kind)
        if scale is None:
            return f"{one} = {other}"
        # A number that is too large for this type becomes null. The other key has this scale, so it cannot be equal.
        return " = ".join(f"TRY_CAST({each} AS DECIMAL({_DIGITS}, {scale}))" for each in (one, other))

    def verify(self, found: pa.Table, times: pa.ChunkedArray) -> None:
        """Check that no joined row is newer than its event or older than the time to live.

        :param found: result of the query
        :param times: event times of the same events
        :raises LeakageError: a row is newer than its event
        :raises FeatureStoreError: a row is older than the time to live
        """
        age = pc.subtract(times, found[f"t{self._number}"])
        newer = pc.sum(pc.less(age, 0)).as_py() or 0
        if newer:
            raise LeakageError(
                f"The point-in-time join returned wrong rows: {newer:,} values of feature view {self._view.name!r} are "
                "newer than their events. Do not train on this data. Report this defect with the installed version of "
                "duckdb."
            )
        if self._ttl is not None and pc.any(pc.greater(age, self._ttl)).as_py():
            raise FeatureStoreError(
                f"The point-in-time join returned wrong rows: values of feature view {self._view.name!r} are older "
                f"than its ttl ({self._view.ttl}). Report this defect with the installed version of duckdb."
            )


def _ttl(source: ParquetSource) -> int | None:
    ttl = source.request.view.ttl
    return min(ttl // timedelta(microseconds=1), _LAST // 2) if ttl and ttl > timedelta(0) else None


def span_of(source: ParquetSource, first: int, last: int) -> Span:
    """Return the range of feature timestamps that can be joined to events.

    :param first: time of the first event in microseconds since 1970
    :param last: time of the last event
    """
    ttl = _ttl(source)
    # The span starts one microsecond earlier, because the time of a row may be rounded up.
    start = None if ttl is None else first - ttl - 1
    return Span(start if start is not None and start > _FIRST_TIME else None, last)


def _query(
    connection: DuckDBPyConnection, parts: Sequence[_Part], keys: dict[str, str], first: int, last: int
) -> tuple[str, dict[str, Any]]:
    joins, parameters = [], {}
    for part in parts:
        join, values = part.join(connection, keys, first, last)
        joins.append(join)
        parameters.update(values)
    columns = ", ".join(column for part in parts for column in part.select())
    return f"SELECT {columns} FROM events e {' '.join(joins)} ORDER BY e.n", parameters  # noqa: S608 - the names are generated here
