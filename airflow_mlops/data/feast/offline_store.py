"""Point-in-time joins by Feast's offline store, for sources that are not Parquet files, such as warehouse tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast import warehouse
from airflow_mlops.data.feast.parquet_source import decoded
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.warehouse.base import Events, Warehouse
from airflow_mlops.data.feast.warehouse.passes import Numbers, later_passes
from airflow_mlops.data.feast.warehouse.rows import one_per_event, typed
from airflow_mlops.data.feast.warehouse.view import EVENT, EVENT_TIME, SqlView
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.prefetch import prefetch
from airflow_mlops.data.spool import BATCH_ROWS, Rows, spooled

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore


@contextmanager
def look_up(
    store: FeatureStore,
    request: ViewRequest,
    events: pa.Table | Rows,
    timestamp: str,
    memory_limit: str | None = None,
) -> Iterator[Rows]:
    """Look up the features of one view for every event.

    If the offline store is a warehouse (:mod:`airflow_mlops.data.feast.warehouse`), the events and the joined rows are
    streamed. Other offline stores get all events at once.

    :param store: the Feast repository
    :param request: the view and its features
    :param events: table with the join keys and the event times
    :param timestamp: name of the event time column
    :param memory_limit: memory that DuckDB may use before it continues in temporary files
    :return: the column of each feature, by ``alias:feature``, in a temporary file that exists inside the ``with`` block
    :raises FeatureStoreError: the offline store failed
    :raises LeakageError: a warehouse returned a row that is newer than its event
    """
    columns = list(dict.fromkeys([*request.join_keys.values(), timestamp]))
    events = events.select(columns)
    place = warehouse.find(store)
    if place is not None and events.num_rows:
        view = place.view(request)
        times = as_utc(events[timestamp], f"The event time {timestamp!r}").cast(pa.int64())
        stream = _Stream(view, events, times)
        if place.accepts(stream.schema):
            with (
                spooled(_joined(place, stream, memory_limit)) as found,
                spooled(one_per_event(found, view, times, memory_limit, BATCH_ROWS)) as features,
            ):
                yield features
            return
    table = events.slice() if isinstance(events, Rows) else events
    with spooled([_by_pandas(store, request, table, timestamp)]) as features:
        yield features


def _joined(place: Warehouse, stream: _Stream, memory_limit: str | None) -> Iterator[pa.RecordBatch]:
    view = stream.view
    later: list[Numbers] = []
    if len(view.keys) > 1:
        later = later_passes(view.request.view.name, stream.schema, stream.batches(), memory_limit)
    first = stream.batches(without=np.concatenate(later)) if later else stream.batches()
    for batches in (first, *(stream.batches(only=numbers) for numbers in later)):
        # The query runs in another thread, so that a signal ends the wait for it.
        with prefetch(place.join(view, stream.events(batches)), place.cancel) as joined:
            for batch in joined:
                yield typed(batch, view)


def _by_pandas(store: FeatureStore, request: ViewRequest, events: pa.Table, timestamp: str) -> pa.Table:
    """Look up the features in an offline store that Feast gives the events in pandas.

    Some offline stores drop events with equal keys and time, so only distinct events are queried. Events with a null
    key are not queried, and their features are null. The times of the returned values are not compared with the event
    times.

    :return: the column of each feature, by ``alias:feature``
    """
    keys = list(dict.fromkeys(request.join_keys.values()))
    complete = np.ones(events.num_rows, bool)
    for key in keys:
        complete &= events[key].is_valid().to_numpy()
    if not complete.any():
        # Feast cannot join an empty DataFrame, because it has no first and no last time.
        return pa.table(
            {f"{request.alias}:{name}": pa.nulls(len(complete), kind) for name, kind in request.features.items()}
        )
    # pandas would convert integer keys with nulls to doubles, which changes ids beyond 2**53.
    table: pd.DataFrame = events.filter(pa.array(complete)).to_pandas()
    table = table.rename(columns={timestamp: EVENT_TIME}).assign(**{EVENT: np.flatnonzero(complete)})
    first = table.groupby([*keys, EVENT_TIME], sort=False)[EVENT].transform("min").to_numpy()
    distinct = table[table[EVENT] == first]
    for key, column in request.join_keys.items():
        distinct = distinct.assign(**{key: distinct[column]})
    entity_df = distinct[[*request.join_keys, EVENT_TIME, EVENT]]
    try:
        with feast_repo.quietly():
            refs = [f"{request.view.name}:{name}" for name in request.features]
            with feast_repo.locked(store, shared=True):
                job = store.get_historical_features(entity_df=entity_df, features=refs)
            # Integers with nulls would be doubles in pandas.
            found = job.to_arrow()
    except Exception as error:
        raise FeatureStoreError(
            f"Feast's offline store failed for feature view {request.view.name!r}: {one_line(error)}. Check the store "
            "configured in feature_store.yaml."
        ) from error
    position = np.full(events.num_rows, -1, np.int64)
    position[found[EVENT].to_numpy().astype(np.int64)] = np.arange(found.num_rows)
    row = np.full(events.num_rows, -1, np.int64)
    row[table[EVENT].to_numpy()] = position[first]
    indices = pa.array(row, mask=row < 0)
    return pa.table({f"{request.alias}:{name}": found[name].take(indices) for name in request.features})


class _Stream:
    """The events for a warehouse, which can be read several times.

    :param view: the feature view
    :param events: table with the join keys and the event times
    :param times: event times in microseconds since 1970
    """

    def __init__(self, view: SqlView, events: pa.Table | Rows, times: pa.ChunkedArray) -> None:
        self.view = view
        self._events = events
        self._times = times
        self.schema = self._batch(0, 0).schema

    def events(self, batches: Iterator[pa.RecordBatch]) -> Events:
        """Return the events of ``batches``, with the range of all event times."""
        bounds = pc.min_max(self._times.cast(pa.timestamp("us", "UTC"))).as_py()
        return Events(self.schema, batches, bounds["min"], bounds["max"])

    def batches(self, *, only: Numbers | None = None, without: Numbers | None = None) -> Iterator[pa.RecordBatch]:
        """Read the events.

        :param only: numbers of the events to read; by default all
        :param without: numbers of the events that are left out
        """
        for start in range(0, len(self._times), BATCH_ROWS):
            batch = self._batch(start, BATCH_ROWS)
            numbers = batch.column(EVENT).to_numpy()
            if only is not None:
                batch = batch.filter(pa.array(np.isin(numbers, only)))
            if without is not None:
                batch = batch.filter(pa.array(~np.isin(numbers, without)))
            yield batch

    def _batch(self, start: int, length: int) -> pa.RecordBatch:
        table = self._events.slice(start, length)
        found = {EVENT: pa.array(np.arange(start, start + len(table)))}
        for key, column in self.view.keys.items():
            values = decoded(table[column])
            if pa.types.is_timestamp(values.type):
                values = as_utc(values, f"Join key {column!r} of the events")
            elif pa.types.is_uint64(values.type):
                # The driver of PostgreSQL would write numbers from 2**63 on as negative numbers.
                values = values.cast(pa.decimal128(20, 0))
            elif pa.types.is_date64(values.type):
                values = values.cast(pa.date32())
            found[key] = values.combine_chunks()
        found[EVENT_TIME] = self._times.slice(start, length).cast(pa.timestamp("us", "UTC")).combine_chunks()
        return pa.record_batch(found)
