"""Which row of a source each event may see, by Feast's own point-in-time join.

Feast's store for files compares every event with every feature row of the same entity, in pandas, and leaves out
events that share their keys with another one or whose features are all too old. It is therefore asked for events that
are distinct, in pieces of bounded size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.sources import UTC

if TYPE_CHECKING:
    from feast import FeatureStore

# Pairs of an event and a feature row that Feast may compare at once: some 20 MB.
PAIRS = 250_000
_EVENT_TIME, _EVENT, _KEY, _TIME, _ROW = "event_timestamp", "mlops_event", "mlops_key", "mlops_time", "mlops_row"

Int64s = np.ndarray[Any, np.dtype[np.int64]]


def known_rows(
    own_keys: Int64s, own_times: Int64s, created: Int64s, keys: Int64s, times: Int64s, ttl: timedelta | None
) -> Int64s:
    """For each event the row of the source that Feast lets it see, or -1.

    :param own_keys: a number for the join keys of each row of the source, not negative
    :param own_times: of each row, in microseconds since 1970
    :param created: when each row was written, in the same unit
    :param keys: the number of each event's join keys, -1 where one is missing
    :param times: of each event
    :param ttl: how old a row may be
    :raises FeatureStoreError: Feast failed
    """
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
            keys[distinct], times[distinct], own_keys[rows], own_times[rows], micros(ttl) if ttl else None
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
    """Cut events, which are ordered by time, so that no piece has more than ``PAIRS`` pairs to compare.

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
        if pairs > PAIRS and piece.stop - piece.start > 1 and end > start:
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
            raise FeatureStoreError(f"Feast's offline store failed: {one_line(error)}.") from error
        found = found[found[_ROW].notna()]
        return found[_EVENT].to_numpy(np.int64), found[_ROW].to_numpy(np.int64)


def micros(span: timedelta) -> int:
    """A span in microseconds, as times are counted here."""
    return span // timedelta(microseconds=1)
