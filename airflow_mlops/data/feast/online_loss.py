"""Find feature views whose materialized rows are no longer in the online store, such as after a flush of Redis.

Feast's registry then still lists the materialized intervals, and Feast does not compare registry and store. Feast has no
function that lists the rows of an online store. Therefore, some keys of the last materialized interval with rows are
read from the source of the view and looked up online. In a local SQLite file, the tables themselves are read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import online_tables
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.parquet_source import Span, decoded, is_parquet, open_files, within
from airflow_mlops.data.feast.request import ViewRequest

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore

log = logging.getLogger("airflow_mlops.stages")

# Number of keys that are looked up, and number of rows of the source from which these keys are chosen.
_KEYS, _ROWS = 20, 1_000
# Parts of the last interval that are read one after the other, until one has rows. A warehouse returns all rows of a part.
_PARTS = (1 / 64, 1 / 8, 1)
# Largest number of parts of earlier intervals that are read if the last interval has no rows.
_EARLIER = 10
# Intervals with a shorter pause between them are one interval. A chunk ends a microsecond before the next one.
_PAUSE = timedelta(seconds=1)
# Settings of online stores that delete rows after some time.
_EXPIRY = ("key_ttl_seconds", "ttl_seconds")


@dataclass(frozen=True)
class Loss:
    """A feature view whose rows are not in the online store.

    :param first: start of the first materialized interval of the view
    :param keys: number of keys that were looked up; 0 if the online store has no row of the view at all
    :param absent: number of these keys that are absent
    """

    first: datetime
    keys: int = 0
    absent: int = 0

    def __str__(self) -> str:
        return f"lacks {self.absent} of {self.keys} keys of" if self.keys else "has no row of"


def find(store: FeatureStore, views: Collection[str]) -> dict[str, Loss]:
    """Find the feature views of which the online store has no row, or lacks more than half of the keys that are looked up.

    Single keys may be absent because their rows came late. A view is not checked if its source cannot be read here, if its
    rows are older than its ``ttl``, or if the online store is configured to delete rows after some time.

    :param store: the Feast repository
    :param views: names of feature views
    :return: the loss by feature view
    :raises FeatureStoreError: the online store cannot be read
    """
    lost = {name: Loss(first) for name, first in online_tables.without_rows(store, views).items()}
    if online_tables.are_local(store):
        return lost
    if any(getattr(store.config.online_store, name, None) for name in _EXPIRY):
        log.info(
            "Whether the online store still has all rows was not checked, because it deletes rows after some time."
        )
        return lost
    for view in (*store.list_batch_feature_views(), *store.list_stream_feature_views()):
        if view.name in views and view.online and view.features and view.materialization_intervals:
            keys = _some_keys(store, view)
            absent = _absent(store, view, keys) if keys else 0
            if absent > len(keys) / 2:
                first = min(start for start, _ in view.materialization_intervals)
                lost[view.name] = Loss(first, len(keys), absent)
    return lost


def _some_keys(store: FeatureStore, view: Any) -> list[dict[str, Any]]:
    """Return some keys of the newest materialized interval with rows; empty if no keys are known."""
    if view.batch_source is None:
        return []
    entities = {entity.name: entity.join_key for entity in store.list_entities()}
    names = [entities.get(entity, entity) for entity in view.entities]
    names = [name for name in names if not name.startswith("__dummy")]
    originals = {mapped: name for name, mapped in (view.batch_source.field_mapping or {}).items()}
    columns = {name: originals.get(name, name) for name in names}
    oldest = datetime.now(timezone.utc) - view.ttl if view.ttl else None
    try:
        for table in _rows(store, view, columns, oldest):
            keys = [decoded(table[column]).combine_chunks().to_pylist() for column in columns.values()]
            rows = list(zip(*keys, strict=True)) if keys else [()] * min(1, table.num_rows)
            distinct = list(dict.fromkeys(row for row in rows if None not in row))
            if distinct:
                step = -(-len(distinct) // _KEYS)
                return [dict(zip(columns, row, strict=True)) for row in distinct[::step]]
    except Exception as error:  # noqa: BLE001 - offline stores raise their own errors
        # The source may be on another machine, or have other columns now.
        log.info(
            "Whether the online store still has the rows of %r was not checked, because its source cannot be read here: %s.",
            view.name,
            one_line(error),
        )
    return []


def _rows(store: FeatureStore, view: Any, columns: dict[str, str], oldest: datetime | None) -> Iterator[pa.Table]:
    """Yield tables with rows of the source in the materialized intervals, newest first, until the caller has found rows.

    :param columns: column of the source, by join key
    :param oldest: time before which rows are not read
    """
    source = view.batch_source
    originals = {mapped: name for name, mapped in (source.field_mapping or {}).items()}
    time = originals.get(source.timestamp_field, source.timestamp_field)
    request = ViewRequest(view, view.name, {}, {})
    spans = _spans(view.materialization_intervals, oldest)
    if is_parquet(store, request):
        files = open_files(store, request)
        chosen = list(dict.fromkeys([*columns.values(), time]))
        for start, end in spans:
            condition = within(files.schema.field(time), Span(*(int(t.timestamp() * 1_000_000) for t in (start, end))))
            if condition is not None:
                yield files.scanner(columns=chosen, filter=condition, fragment_readahead=1).head(_ROWS)
        return
    feature = view.features[0].name
    parts = [(end - (end - start) * part, end) for start, end in spans[:1] for part in _PARTS]
    for start, end in (*parts, *spans[1:]):
        with feast_repo.quietly():
            job = store.provider.offline_store.pull_latest_from_table_or_query(
                config=store.config,
                data_source=source,
                join_key_columns=list(columns.values()),
                feature_name_columns=[originals.get(feature, feature)],
                timestamp_field=time,
                created_timestamp_column=None,
                start_date=start,
                end_date=end,
            )
            table = job.to_arrow()
        yield table.slice(0, _ROWS)


def _spans(intervals: list[tuple[datetime, datetime]], oldest: datetime | None) -> list[tuple[datetime, datetime]]:
    """Return the last materialized interval, and then earlier parts of the intervals, newest first.

    A view whose source changes rarely has no rows in most intervals. Each earlier part is eight times as long as the one
    before, so that few parts are read.

    :param oldest: time before which nothing is returned
    """
    newest = max(intervals, key=lambda interval: (interval[1], interval[0]))
    length = max(newest[1] - newest[0], _PAUSE)

    def parts() -> Iterator[tuple[datetime, datetime]]:
        nonlocal length
        for start, end in _joined(intervals):
            begin = max(start, oldest) if oldest is not None else start
            while begin <= end:
                part = end - length if end - begin > length else begin
                yield part, end
                if part == begin:
                    break
                end, length = part, 8 * length

    return list(islice(parts(), 1 + _EARLIER))


def _joined(intervals: list[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Join intervals that overlap or follow each other, newest first."""
    joined: list[tuple[datetime, datetime]] = []
    for start, end in sorted(intervals, key=lambda interval: (interval[1], interval[0]), reverse=True):
        if joined and end + _PAUSE >= joined[-1][0]:
            joined[-1] = min(start, joined[-1][0]), joined[-1][1]
        else:
            joined.append((start, end))
    return joined


def _absent(store: FeatureStore, view: Any, keys: list[dict[str, Any]]) -> int:
    """Return the number of keys that are not in the online store.

    :raises FeatureStoreError: the online store cannot be read
    """
    names = [field.name for field in view.features]
    try:
        with feast_repo.quietly():
            response = store.get_online_features(features=[f"{view.name}:{name}" for name in names], entity_rows=keys)
    except Exception as error:
        raise FeatureStoreError(
            f"The online store of Feast project {store.project!r} cannot be read for feature view {view.name!r}: "
            f"{one_line(error)}. Check the store configured in feature_store.yaml. If it was lost, materialize the features "
            "again with MaterializeFeaturesOperator, which creates and fills it."
        ) from error
    found = [False] * len(keys)
    for name, result in zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True):
        if name in names:
            for number, (value, at) in enumerate(zip(result.values, result.event_timestamps, strict=True)):
                # An absent row has no values, and the time 1970.
                found[number] |= bool(value.WhichOneof("val") or at.seconds or at.nanos)
    return found.count(False)
