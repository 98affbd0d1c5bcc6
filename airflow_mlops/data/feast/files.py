"""Looks features up in the Parquet files of a Feast source.

Feast says which row of the source each event may see (:mod:`airflow_mlops.data.feast.point_in_time`); the row's
values are taken from the source itself, so that no type changes on the way.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError, LeakageError, one_line
from airflow_mlops.data.feast.point_in_time import Int64s, known_rows, micros
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.feast.sources import as_utc

if TYPE_CHECKING:
    from feast import FeatureStore

_TIME, _CREATED = "mlops_time", "mlops_created"


def reads_files(store: FeatureStore, request: ViewRequest) -> bool:
    """Whether the view's source is Parquet files that Feast reads itself."""
    from feast import FileSource
    from feast.data_format import ParquetFormat

    source = request.view.batch_source
    return (
        store.config.offline_store.type in ("dask", "file")
        and isinstance(source, FileSource)
        and (source.file_format is None or isinstance(source.file_format, ParquetFormat))
    )


def look_up(store: FeatureStore, request: ViewRequest, events: pa.Table, timestamp: str) -> dict[str, pa.ChunkedArray]:
    """The features of one view for every event, as the source has them.

    :raises FeatureStoreError: Feast failed, or keys and source do not fit together
    :raises LeakageError: Feast returned something newer than its event
    """
    ttl = request.view.ttl if request.view.ttl and request.view.ttl > timedelta(0) else None
    times = _instants(events[timestamp])
    source = _read_source(store, request, times, ttl)
    own_times = _instants(source[_TIME])
    own_keys, keys = _codes(request, source, events)
    row = known_rows(own_keys, own_times, _created(source), keys, times, ttl)
    _verify(request, row, own_times, times, ttl)
    indices = pa.array(row, mask=row < 0)
    return {name: source[name].take(indices) for name in request.features}


def _read_source(store: FeatureStore, request: ViewRequest, times: Int64s, ttl: timedelta | None) -> pa.Table:
    """The view's source, restricted to what these events can see: keys and features by the view's names for them."""
    import pyarrow.dataset as ds

    view, source = request.view, request.view.batch_source
    # A view speaks of columns by their names after the source's field mapping.
    inverse = {mapped: name for name, mapped in (source.field_mapping or {}).items()}
    created = source.created_timestamp_column or None
    names = {name: inverse.get(name, name) for name in (*request.join_keys, *request.features)}
    names[_TIME] = inverse.get(source.timestamp_field, source.timestamp_field)
    if created:
        names[_CREATED] = inverse.get(created, created)
    uri = type(source).get_uri_for_file_path(repo_path=store.repo_path, uri=source.path)
    try:
        filesystem, path = type(source).create_filesystem_and_path(
            str(uri), source.file_options.s3_endpoint_override, source.resolve_credentials()
        )
        dataset = ds.dataset(path, filesystem=filesystem, format="parquet")
        missing = [name for name in names.values() if name not in dataset.schema.names]
        if missing:
            raise FeatureStoreError(
                f"The source of feature view {view.name!r}, {source.path}, has no column "
                f"{', '.join(map(repr, missing))}: it has {', '.join(dataset.schema.names)}."
            )
        table = dataset.to_table(
            columns={name: ds.field(column) for name, column in names.items()},
            filter=_seen(dataset.schema.field(names[_TIME]), times, ttl),
        )
    except (OSError, pa.ArrowException) as error:
        raise FeatureStoreError(
            f"The source of feature view {view.name!r}, {source.path}, cannot be read: {one_line(error)}."
        ) from error
    column = as_utc(table[_TIME], f"{names[_TIME]!r} in the source of feature view {view.name!r}")
    table = table.set_column(table.schema.get_field_index(_TIME), _TIME, column)
    return table.filter(pc.is_valid(table[_TIME])) if column.null_count else table


def _seen(field: pa.Field, times: Int64s, ttl: timedelta | None) -> Any:
    """A filter that Parquet can use: not after the last event, and not before anything the first one may see."""
    if not pa.types.is_timestamp(field.type) or not len(times):
        return None

    def at(micros: int, up: bool) -> Any:
        value = pa.scalar(micros, pa.timestamp("us", field.type.tz))
        tick = {"s": 1_000_000, "ms": 1_000}.get(field.type.unit, 1)
        return pa.scalar(micros // tick * tick + (tick if up else 0), value.type).cast(field.type)

    condition = pc.field(field.name) <= at(int(times.max()), up=True)
    if ttl is not None:
        condition &= pc.field(field.name) >= at(int(times.min()) - micros(ttl), up=False)
    return condition


def _created(source: pa.Table) -> Int64s:
    if _CREATED not in source.column_names:
        return np.zeros(source.num_rows, np.int64)
    return _instants(as_utc(source[_CREATED], "the created timestamp"))


def _codes(request: ViewRequest, source: pa.Table, events: pa.Table) -> tuple[Int64s, Int64s]:
    """One number for each combination of join keys, the same on both sides; -1 where a key is missing."""
    own, theirs = np.zeros(source.num_rows, np.int64), np.zeros(events.num_rows, np.int64)
    for key, column in request.join_keys.items():
        values, asked = source[key], events[column]
        if pa.types.is_null(asked.type):
            asked = asked.cast(values.type)
        if not _comparable(values.type, asked.type):
            raise FeatureStoreError(
                f"Join key {column!r} is {asked.type} in the events, but {values.type} in the source of feature view "
                f"{request.view.name!r}: give both the same type."
            )
        wide = pa.int64() if pa.types.is_integer(values.type) else pa.string() if _is_text(values.type) else values.type
        both = pa.chunked_array([*values.cast(wide).chunks, *asked.cast(wide).chunks], wide)
        codes = pc.rank(both, tiebreaker="dense").to_numpy().astype(np.int64)
        missing = both.is_null().to_numpy()
        combined = np.concatenate([own, theirs])
        dense = np.unique(combined * (codes.max(initial=0) + 1) + codes, return_inverse=True)[1].astype(np.int64)
        dense[missing | (combined < 0)] = -1
        own, theirs = dense[: len(own)], dense[len(own) :]
    return own, theirs


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _comparable(one: pa.DataType, other: pa.DataType) -> bool:
    return one.equals(other) or any(
        check(one) and check(other) for check in (pa.types.is_integer, _is_text, pa.types.is_floating)
    )


def _verify(request: ViewRequest, row: Int64s, own_times: Int64s, times: Int64s, ttl: timedelta | None) -> None:
    """Check Feast's answer: this is the promise that a training set stands on."""
    some = row >= 0
    age = times[some] - own_times[row[some]]
    newer = int((age < 0).sum())
    if newer:
        raise LeakageError(
            f"{newer} values of feature view {request.view.name!r} are newer than their events: Feast's offline store "
            "joined them wrongly. Do not train on them; report this with the versions of feast and dask."
        )
    if ttl is not None and bool((age > micros(ttl)).any()):
        raise FeatureStoreError(f"Feast's offline store returned values of {request.view.name!r} older than its ttl.")


def _instants(column: pa.ChunkedArray) -> Int64s:
    values: Int64s = column.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    return values
