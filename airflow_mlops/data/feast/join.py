"""Point-in-time join: features are joined to events with the values that were known at the time of each event."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import offline_store, parquet_source, point_in_time
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.declared import as_declared
from airflow_mlops.data.feast.request import FeatureRequest, OnDemandRequest
from airflow_mlops.data.spool import BATCH_ROWS, Rows

if TYPE_CHECKING:
    from feast import FeatureStore


def join(
    store: FeatureStore,
    request: FeatureRequest,
    events: pa.Table | Rows,
    timestamp: str,
    memory_limit: str | None = None,
) -> Iterator[pa.Table]:
    """Join the requested features to the events, with the values that were known at the time of each event.

    DuckDB joins feature views whose source is Parquet files (:mod:`airflow_mlops.data.feast.point_in_time`). Feast's
    offline store joins all other views. Feast computes on-demand feature views, for all events at once.

    :param store: the Feast repository
    :param request: the features to join
    :param events: table with the join keys, the event times and the inputs of on-demand feature views
    :param timestamp: name of the event time column
    :param memory_limit: memory that DuckDB may use before it continues in temporary files; by default ``[mlops]
        memory``
    :return: tables with the columns ``request.refs``, for consecutive slices of the events
    :raises FeatureStoreError: Feast or DuckDB failed, a column is missing, or a join key has different types in the
        events and in the source
    :raises LeakageError: the join returned a feature value that is newer than the event
    """
    sources = []
    others: list[Rows] = []
    batches: Iterator[pa.Table]
    with ExitStack() as open_files:
        for view in request.views:
            if parquet_source.is_parquet(store, view):
                sources.append(parquet_source.open_source(store, view, events.schema))
            else:
                found = offline_store.look_up(store, view, events, timestamp, memory_limit)
                others.append(open_files.enter_context(found))
        if sources:
            batches = point_in_time.join(sources, events, timestamp, memory_limit, BATCH_ROWS)
        else:
            batches = (pa.table({}) for _ in range(0, max(events.num_rows, 1), BATCH_ROWS))
        if others:
            batches = _with_columns(batches, others, events.num_rows)
        batches = (as_declared(batch, request.views) for batch in batches)
        if request.on_demand:
            batches = iter([with_on_demand(pa.concat_tables(batches), request.on_demand, events)])
        for batch in batches:
            yield batch.select(request.refs)


def _with_columns(batches: Iterator[pa.Table], others: list[Rows], count: int) -> Iterator[pa.Table]:
    """Add columns to consecutive tables, which together have a row for each of ``count`` events.

    PyArrow cannot represent rows without columns. A table without columns therefore stands for the next
    :data:`BATCH_ROWS` events.
    """
    start = 0
    for batch in batches:
        rows = batch.num_rows if batch.num_columns else BATCH_ROWS
        columns = _columns(batch)
        for other in others:
            columns |= _columns(other.slice(start, min(rows, count - start)))
        start += rows
        yield pa.table(columns)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def with_on_demand(found: pa.Table, items: list[OnDemandRequest], events: pa.Table | Rows) -> pa.Table:
    """Add the features of on-demand feature views, which Feast computes from other features and the events."""
    columns = _columns(found)
    for item in items:
        inputs: dict[str, Any] = {}
        for source in item.view.source_feature_view_projections.values():
            # Feast itself adds the names without the view.
            for field in source.features:
                inputs[f"{source.name}__{field.name}"] = columns[f"{source.name_to_use()}:{field.name}"]
        inputs.update({name: events[name] for name in item.view.get_request_data_schema()})
        try:
            with feast_repo.quietly():
                computed = item.view.transform_arrow(pa.table(inputs), full_feature_names=False)
        except Exception as error:
            raise FeatureStoreError(
                f"On-demand feature view {item.view.name!r} could not be computed: {one_line(error)}. Correct the "
                "function of this feature view."
            ) from error
        columns.update({f"{item.alias}:{name}": computed[name] for name in item.features})
    return pa.table(columns)
