"""Features as they were known at the time of each event, through Feast's offline store.

Sources that are files are looked up by :mod:`airflow_mlops.data.feast.files`; other stores are asked for all at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast import files as feast_files
from airflow_mlops.data.feast import repository as feast_repo
from airflow_mlops.data.feast.request import FeatureRequest, OnDemandRequest, ViewRequest

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

_EVENT_TIME, _EVENT = "event_timestamp", "mlops_event"


def join(store: FeatureStore, request: FeatureRequest, events: pa.Table, timestamp: str) -> dict[str, pa.ChunkedArray]:
    """Look up every feature of ``request`` for every event.

    :param events: join keys, event time (UTC timestamps) and what on-demand views need
    :return: a column for each of ``request.refs``, with a value, or null, for each event
    :raises FeatureStoreError: Feast failed, or keys and sources do not fit together
    :raises LeakageError: Feast returned something newer than its event
    """
    found: dict[str, pa.ChunkedArray] = {}
    for view in request.views:
        look_up = feast_files.look_up if feast_files.reads_files(store, view) else _from_store
        columns = look_up(store, view, events, timestamp)
        found.update({f"{view.alias}:{name}": _cast(column, view, name) for name, column in columns.items()})
    for item in request.on_demand:
        found.update(_computed(item, found, events))
    return {ref: found[ref] for ref in request.refs}


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
            f"Feast's offline store failed for feature view {request.view.name!r}: {one_line(error)}."
        ) from error
    position = np.full(events.num_rows, -1, np.int64)
    position[found[_EVENT].to_numpy(np.int64)] = np.arange(len(found))
    row = np.full(events.num_rows, -1, np.int64)
    row[asked[_EVENT].to_numpy()] = position[first]
    indices = pa.array(row, mask=row < 0)
    return {name: pa.chunked_array([pa.Array.from_pandas(found[name])]).take(indices) for name in request.features}


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
            f"On-demand feature view {item.view.name!r} could not be computed: {one_line(error)}."
        ) from error
    return {f"{item.alias}:{name}": computed[name] for name in item.features}


def _cast(column: pa.ChunkedArray, request: ViewRequest, name: str) -> pa.ChunkedArray:
    """A feature in the type that its view declares."""
    kind = request.features[name]
    if pa.types.is_nested(kind):
        return column
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FeatureStoreError(
            f"Feature {name!r} of view {request.view.name!r} is declared as {kind}, but its source holds "
            f"{column.type}: {str(error).splitlines()[0]}."
        ) from None
