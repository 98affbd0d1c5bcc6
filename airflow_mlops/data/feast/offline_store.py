"""Point-in-time joins by Feast's offline store, for sources that are not Parquet files, such as warehouse tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import ViewRequest

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

_EVENT_TIME, _EVENT = "event_timestamp", "mlops_event"


def look_up(store: FeatureStore, request: ViewRequest, events: pa.Table, timestamp: str) -> dict[str, pa.ChunkedArray]:
    """Look up the features of one view for every event.

    Some offline stores drop events with equal keys and time, so only distinct events are queried. Events with a null
    key are not queried, and their features are null. The times of the returned values are not compared with the event
    times.

    :param store: the Feast repository
    :param request: the view and its features
    :param events: table with the join keys and the event times
    :param timestamp: name of the event time column
    :return: the column of each feature, by ``alias:feature``
    :raises FeatureStoreError: the offline store failed
    """
    keys = list(dict.fromkeys(request.join_keys.values()))
    complete = np.ones(events.num_rows, bool)
    for key in keys:
        complete &= events[key].is_valid().to_numpy()
    # pandas would convert integer keys with nulls to doubles, which changes ids beyond 2**53.
    table: pd.DataFrame = events.select([*keys, timestamp]).filter(pa.array(complete)).to_pandas()
    table = table.rename(columns={timestamp: _EVENT_TIME}).assign(**{_EVENT: np.flatnonzero(complete)})
    first = table.groupby([*keys, _EVENT_TIME], sort=False)[_EVENT].transform("min").to_numpy()
    distinct = table[table[_EVENT] == first]
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
            f"Feast's offline store failed for feature view {request.view.name!r}: {one_line(error)}. Check the store "
            "configured in feature_store.yaml."
        ) from error
    position = np.full(events.num_rows, -1, np.int64)
    position[found[_EVENT].to_numpy(np.int64)] = np.arange(len(found))
    row = np.full(events.num_rows, -1, np.int64)
    row[table[_EVENT].to_numpy()] = position[first]
    indices = pa.array(row, mask=row < 0)
    return {
        f"{request.alias}:{name}": pa.chunked_array([pa.Array.from_pandas(found[name])]).take(indices)
        for name in request.features
    }
