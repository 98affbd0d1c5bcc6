"""Features as they were known at the time of each event, through Feast's offline store.

Feast's store for files compares every event with every feature row of the same entity, in pandas, and leaves out
events that share their keys with another one or whose features are all too old. It is therefore asked one view at a
time, for events that are distinct, in pieces of bounded size, which row of the source each event may see; the row's
values are taken from the source itself, so that no type changes on the way. Other offline stores answer at once.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.exceptions import FeatureStoreError, LeakageError
from airflow_mlops.steps import feast_repo
from airflow_mlops.steps.feast_sources import UTC, as_utc

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

# Pairs of an event and a feature row that Feast may compare at once: some 20 MB.
_PAIRS = 250_000
_EVENT_TIME, _EVENT, _KEY, _TIME, _ROW = "event_timestamp", "mlops_event", "mlops_key", "mlops_time", "mlops_row"

Int64s = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ViewRequest:
    """Features of one view.

    :param alias: the name that features of the view go by, its own unless the service gives another
    :param join_keys: the view's join keys, with the columns of the events that hold them
    :param features: Arrow types of the features, by name
    """

    view: Any
    alias: str
    join_keys: dict[str, str]
    features: dict[str, pa.DataType]


@dataclass(frozen=True)
class OnDemandRequest:
    """Features that Feast computes from those of other views and from columns of the events."""

    view: Any
    alias: str
    features: list[str]


@dataclass(frozen=True)
class FeatureRequest:
    """All that is to be joined.

    :param refs: the features asked for, as ``view:feature``, in order
    :param views: what has to be looked up for them, which is more where on-demand views need it
    """

    refs: list[str]
    views: list[ViewRequest]
    on_demand: list[OnDemandRequest]

    @property
    def join_keys(self) -> list[str]:
        """The columns of the events that features are looked up by, in order."""
        return list(dict.fromkeys(column for request in self.views for column in request.join_keys.values()))

    @property
    def event_columns(self) -> list[str]:
        """The columns of the events that on-demand views compute with."""
        return list(dict.fromkeys(name for item in self.on_demand for name in item.view.get_request_data_schema()))


def resolve(store: FeatureStore, service: str | None, features: Sequence[str] | None) -> FeatureRequest:
    """Find out what a feature service, or a list of ``view:feature``, asks for.

    :raises FeatureStoreError: the repository has no such thing
    """
    from feast.types import from_feast_to_pyarrow_type

    known: dict[str, Any] = {view.name: view for view in store.list_all_feature_views()}
    entities = {entity.name: entity.join_key for entity in store.list_entities()}
    refs: list[str] = []
    views: dict[str, ViewRequest] = {}
    on_demand: list[OnDemandRequest] = []

    def add(name: str, alias: str, wanted: list[str], join_key_map: dict[str, str]) -> None:
        view = known.get(name)
        if view is None:
            raise FeatureStoreError(
                f"Feast project {store.project} has no feature view {name!r}: "
                f"it has {', '.join(sorted(known)) or 'none'}. Has the repository been applied?"
            )
        types = {field.name: field.dtype for field in view.features}
        missing = [feature for feature in wanted if feature not in types]
        if missing:
            raise FeatureStoreError(
                f"Feature view {name!r} has no feature {', '.join(map(repr, missing))}: it has {', '.join(types)}."
            )
        if hasattr(view, "source_feature_view_projections"):
            for source in view.source_feature_view_projections.values():
                sources = [field.name for field in source.features]
                add(source.name, source.name_to_use(), sources, dict(source.join_key_map or {}))
            on_demand.append(OnDemandRequest(view, alias, wanted))
            return
        if getattr(view, "batch_source", None) is None or not hasattr(view, "entity_columns"):
            raise FeatureStoreError(f"{name!r} has no batch source, so its features have no past that could be joined.")
        own_keys = [entities.get(entity, entity) for entity in view.entities]
        join_keys = {key: join_key_map.get(key, key) for key in own_keys if not key.startswith("__dummy")}
        found = views.get(alias)
        features = dict(found.features) if found else {}
        features.update({feature: from_feast_to_pyarrow_type(types[feature]) for feature in wanted})
        views[alias] = ViewRequest(view, alias, join_keys, features)

    for name, alias, wanted, join_key_map in _projections(store, service, features):
        add(name, alias, wanted, join_key_map)
        refs += [f"{alias}:{feature}" for feature in wanted]
    return FeatureRequest(list(dict.fromkeys(refs)), list(views.values()), on_demand)


def _projections(
    store: FeatureStore, service: str | None, features: Sequence[str] | None
) -> Iterator[tuple[str, str, list[str], dict[str, str]]]:
    """View, alias, features and join key map of everything asked for."""
    if service is None:
        for ref in features or ():
            name, colon, feature = ref.partition(":")
            if not (name and colon and feature):
                raise FeatureStoreError(f"{ref!r} is not a feature: write it as view:feature.")
            yield name, name, [feature], {}
        return
    known = {item.name: item for item in store.list_feature_services()}
    if service not in known:
        raise FeatureStoreError(
            f"Feast project {store.project} has no feature service {service!r}: "
            f"it has {', '.join(sorted(known)) or 'none'}. Has the repository been applied?"
        )
    projections: list[Any] = known[service].feature_view_projections
    for item in projections:
        names = [field.name for field in item.features]
        yield item.name, item.name_to_use(), names, dict(item.join_key_map or {})


def join(store: FeatureStore, request: FeatureRequest, events: pa.Table, timestamp: str) -> dict[str, pa.ChunkedArray]:
    """Look up every feature of ``request`` for every event.

    :param events: join keys, event time (UTC timestamps) and what on-demand views need
    :return: a column for each of ``request.refs``, with a value, or null, for each event
    :raises FeatureStoreError: Feast failed, or keys and sources do not fit together
    :raises LeakageError: Feast returned something newer than its event
    """
    found: dict[str, pa.ChunkedArray] = {}
    for view in request.views:
        columns = (
            _from_files(store, view, events, timestamp)
            if _reads_files(store, view)
            else _from_store(store, view, events, timestamp)
        )
        found.update({f"{view.alias}:{name}": column for name, column in columns.items()})
    for item in request.on_demand:
        found.update(_computed(item, found, events))
    return {ref: found[ref] for ref in request.refs}


def _reads_files(store: FeatureStore, request: ViewRequest) -> bool:
    from feast import FileSource
    from feast.data_format import ParquetFormat

    source = request.view.batch_source
    return (
        store.config.offline_store.type in ("dask", "file")
        and isinstance(source, FileSource)
        and (source.file_format is None or isinstance(source.file_format, ParquetFormat))
    )


def _from_files(
    store: FeatureStore, request: ViewRequest, events: pa.Table, timestamp: str
) -> dict[str, pa.ChunkedArray]:
    ttl = request.view.ttl if request.view.ttl and request.view.ttl > timedelta(0) else None
    times = _micros(events[timestamp])
    source = _read_source(store, request, times, ttl)
    own_times = _micros(source[_TIME])
    own_keys, keys = _codes(request, source, events)
    row = _known_rows(own_keys, own_times, _created(source), keys, times, ttl)
    _verify(request, row, own_times, times, ttl)
    indices = pa.array(row, mask=row < 0)
    return {name: _cast(source[name].take(indices), kind, request, name) for name, kind in request.features.items()}


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
        names["mlops_created"] = inverse.get(created, created)
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
            f"The source of feature view {view.name!r}, {source.path}, cannot be read: {feast_repo.one_line(error)}."
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
        condition &= pc.field(field.name) >= at(int(times.min()) - _micro(ttl), up=False)
    return condition


def _created(source: pa.Table) -> Int64s:
    if "mlops_created" not in source.column_names:
        return np.zeros(source.num_rows, np.int64)
    return _micros(as_utc(source["mlops_created"], "the created timestamp"))


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


def _known_rows(
    own_keys: Int64s, own_times: Int64s, created: Int64s, keys: Int64s, times: Int64s, ttl: timedelta | None
) -> Int64s:
    """For each event the row of the source that Feast lets it see, or -1."""
    answer = np.full(len(keys), -1, np.int64)
    # Of rows with the same key and time the one created last counts.
    order = np.lexsort((np.arange(len(own_keys)), created, own_times, own_keys))
    last = np.ones(len(order), bool)
    last[:-1] = (np.diff(own_keys[order]) != 0) | (np.diff(own_times[order]) != 0)
    rows = order[last & (own_keys[order] >= 0)]
    asked = np.flatnonzero(np.isin(keys, own_keys[rows]) & (keys >= 0))
    if not len(asked):
        return answer
    asked = asked[np.lexsort((keys[asked], times[asked]))]
    first = np.ones(len(asked), bool)
    first[1:] = (np.diff(keys[asked]) != 0) | (np.diff(times[asked]) != 0)
    distinct = asked[first]
    seen = np.full(len(distinct), -1, np.int64)
    with _PointInTime(ttl) as feast:
        for piece, candidates in _pieces(
            keys[distinct], times[distinct], own_keys[rows], own_times[rows], _micro(ttl) if ttl else None
        ):
            chosen = rows[candidates]
            found, row = feast.look_up(
                keys[distinct[piece]], times[distinct[piece]], own_keys[chosen], own_times[chosen], chosen
            )
            seen[piece.start + found] = row
    answer[asked] = seen[np.cumsum(first) - 1]
    return answer


def _pieces(
    keys: Int64s, times: Int64s, own_keys: Int64s, own_times: Int64s, ttl: int | None
) -> Iterator[tuple[slice, Int64s]]:
    """Cut events, which are ordered by time, so that no piece has more than ``_PAIRS`` pairs to compare.

    :return: a piece of the events, and the source rows that any of them could see
    """
    waiting = [slice(0, len(keys))]
    while waiting:
        piece = waiting.pop()
        start, end = times[piece.start], times[piece.stop - 1]
        if ttl is not None:
            near = (own_times <= end) & (own_times >= start - ttl)
        else:
            # What came before the piece matters only by its newest row. Rows are ordered by key and time.
            before = own_times <= start
            newest = before.copy()
            newest[:-1] &= (np.diff(own_keys) != 0) | ~before[1:]
            near = newest | ((own_times > start) & (own_times <= end))
        counts = np.bincount(keys[piece], minlength=int(own_keys.max()) + 1)
        candidates = np.flatnonzero(near & (counts[own_keys] > 0))
        pairs = int(counts[own_keys[candidates]].sum())
        if pairs > _PAIRS and piece.stop - piece.start > 1 and end > start:
            middle = (piece.start + piece.stop) // 2
            waiting += [slice(middle, piece.stop), slice(piece.start, middle)]
        elif len(candidates):
            yield piece, candidates


class _PointInTime:
    """A Feast project of its own, in a temporary folder, that holds one view: which row of a source is known when."""

    def __init__(self, ttl: timedelta | None) -> None:
        self._ttl = ttl

    def __enter__(self) -> _PointInTime:
        self._folder = tempfile.TemporaryDirectory(prefix="mlops-feast-")
        self._source = Path(self._folder.name) / "source.parquet"
        self._store: FeatureStore | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _apply(self) -> FeatureStore:
        from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
        from feast.types import Int64

        config = {
            "project": "point_in_time",
            "provider": "local",
            "registry": f"{self._folder.name}/registry.db",
            "offline_store": {"type": "dask"},
            "online_store": None,
            "entity_key_serialization_version": 3,
        }
        store = FeatureStore(config=RepoConfig(**config))
        entity = Entity(name=_KEY, join_keys=[_KEY], value_type=ValueType.INT64)
        view = FeatureView(
            name="known",
            entities=[entity],
            ttl=self._ttl,
            schema=[Field(name=_KEY, dtype=Int64), Field(name=_ROW, dtype=Int64)],
            source=FileSource(name="source", path=str(self._source), timestamp_field=_TIME),
            online=False,
        )
        store.apply([entity, view])
        return store

    def look_up(
        self, keys: Int64s, times: Int64s, own_keys: Int64s, own_times: Int64s, rows: Int64s
    ) -> tuple[Int64s, Int64s]:
        """Positions of the events that see something, and the rows they see."""
        import pandas as pd

        source = {_KEY: own_keys, _TIME: pa.array(own_times, UTC), _ROW: rows}
        pq.write_table(pa.table(source), self._source)
        events = pd.DataFrame(
            {_KEY: keys, _EVENT_TIME: pd.to_datetime(times, unit="us", utc=True), _EVENT: np.arange(len(keys))}
        )
        try:
            with feast_repo.quietly():
                self._store = self._store or self._apply()
                found = self._store.get_historical_features(entity_df=events, features=[f"known:{_ROW}"]).to_df()
        except Exception as error:
            raise FeatureStoreError(f"Feast's offline store failed: {feast_repo.one_line(error)}.") from error
        found = found[found[_ROW].notna()]
        return found[_EVENT].to_numpy(np.int64), found[_ROW].to_numpy(np.int64)


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
    if ttl is not None and bool((age > _micro(ttl)).any()):
        raise FeatureStoreError(f"Feast's offline store returned values of {request.view.name!r} older than its ttl.")


def _from_store(
    store: FeatureStore, request: ViewRequest, events: pa.Table, timestamp: str
) -> dict[str, pa.ChunkedArray]:
    """Ask the offline store of the repository itself: a warehouse joins by its own means."""
    keys = list(dict.fromkeys(request.join_keys.values()))
    asked: pd.DataFrame = events.select([*keys, timestamp]).to_pandas()
    whole = asked[keys].notna().all(axis=1)
    asked = asked.rename(columns={timestamp: _EVENT_TIME}).assign(**{_EVENT: np.arange(len(asked))})[whole]
    groups = asked.groupby([*keys, _EVENT_TIME], sort=False)[_EVENT]
    first = groups.transform("min").to_numpy()
    distinct = asked[asked[_EVENT] == first]
    for key, column in request.join_keys.items():
        distinct = distinct.assign(**{key: distinct[column]})
    entity_df = distinct[[*request.join_keys, _EVENT_TIME, _EVENT]]
    try:
        with feast_repo.quietly():
            refs = [f"{request.view.name}:{name}" for name in request.features]
            with feast_repo.locked(store, shared=True):
                job = store.get_historical_features(entity_df=entity_df, features=refs)
            found = job.to_df()
    except Exception as error:
        raise FeatureStoreError(
            f"Feast's offline store failed for feature view {request.view.name!r}: {feast_repo.one_line(error)}."
        ) from error
    position = np.full(events.num_rows, -1, np.int64)
    position[found[_EVENT].to_numpy(np.int64)] = np.arange(len(found))
    row = np.full(events.num_rows, -1, np.int64)
    row[asked[_EVENT].to_numpy()] = position[first]
    indices = pa.array(row, mask=row < 0)
    return {
        name: _cast(pa.chunked_array([pa.Array.from_pandas(found[name])]).take(indices), kind, request, name)
        for name, kind in request.features.items()
    }


def _computed(item: OnDemandRequest, found: dict[str, pa.ChunkedArray], events: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Let Feast compute an on-demand view."""
    inputs: dict[str, Any] = {}
    for source in item.view.source_feature_view_projections.values():
        # Feast adds the short names itself.
        for field in source.features:
            inputs[f"{source.name}__{field.name}"] = found[f"{source.name_to_use()}:{field.name}"]
    inputs.update({name: events[name] for name in item.view.get_request_data_schema()})
    try:
        with feast_repo.quietly():
            computed = item.view.transform_arrow(pa.table(inputs), full_feature_names=False)
    except Exception as error:
        raise FeatureStoreError(
            f"On-demand feature view {item.view.name!r} could not be computed: {feast_repo.one_line(error)}."
        ) from error
    return {f"{item.alias}:{name}": computed[name] for name in item.features}


def _cast(column: pa.ChunkedArray, kind: pa.DataType, request: ViewRequest, name: str) -> pa.ChunkedArray:
    if pa.types.is_nested(kind):
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FeatureStoreError(
            f"Feature {name!r} of view {request.view.name!r} is declared as {kind}, but its source holds "
            f"{column.type}: {str(error).splitlines()[0]}."
        ) from None


def _micros(column: pa.ChunkedArray) -> Int64s:
    values: Int64s = column.cast(pa.int64()).fill_null(np.iinfo(np.int64).min).to_numpy()
    return values


def _micro(span: timedelta) -> int:
    return span // timedelta(microseconds=1)
