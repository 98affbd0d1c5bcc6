"""Online lookup: read the newest feature values from Feast's online store, by the rules of the point-in-time join."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError, one_line
from airflow_mlops.data.feast.declared import as_declared
from airflow_mlops.data.feast.join import with_on_demand
from airflow_mlops.data.feast.request import FeatureRequest, ViewRequest

if TYPE_CHECKING:
    from feast import FeatureStore


def look_up(store: FeatureStore, request: FeatureRequest, entities: pa.Table, now: datetime) -> pa.Table:
    """Look up the newest values of the requested features. Feast computes on-demand feature views from them.

    A value is null if the online store does not have the entity, if the join key is null, or if the value is older than
    the ``ttl`` of its view. Feast itself does not check the ``ttl`` online.

    :param store: the Feast repository
    :param request: the features to look up
    :param entities: table with the join keys and the inputs of on-demand feature views
    :param now: the time at which the age of the values is computed
    :return: table with the columns ``request.refs`` and a row for each row of ``entities``
    :raises FeatureStoreError: the online store cannot be read, or a value does not have the type that its view declares
    """
    columns: dict[str, pa.Array] = {}
    for view in request.views:
        columns.update(_look_up(store, view, entities, now))
    found = as_declared(pa.table(columns), request.views)
    if request.on_demand:
        found = with_on_demand(found, request.on_demand, entities)
    return found.select(request.refs)


def _look_up(store: FeatureStore, request: ViewRequest, entities: pa.Table, now: datetime) -> dict[str, pa.Array]:
    keys = [entities[column].to_pylist() for column in request.join_keys.values()]
    rows = list(zip(*keys, strict=True)) if keys else [()] * entities.num_rows
    # Each entity is looked up once.
    place = {row: number for number, row in enumerate(dict.fromkeys(row for row in rows if None not in row))}
    values = _values(store, request, [dict(zip(request.join_keys, row, strict=True)) for row in place], now)
    indices = [place.get(row) for row in rows]
    try:
        return {
            f"{request.alias}:{name}": pa.array([None if index is None else found[index] for index in indices])
            for name, found in values.items()
        }
    except pa.ArrowException as error:
        raise FeatureStoreError(
            f"The online store has values of several types in feature view {request.view.name!r}: {one_line(error)}."
        ) from error


def _values(
    store: FeatureStore, request: ViewRequest, entities: Sequence[dict[str, Any]], now: datetime
) -> dict[str, list[Any]]:
    """Return the values of the features of a view, by name of the feature."""
    if not entities:
        return {name: [] for name in request.features}
    refs = [f"{request.view.name}:{name}" for name in request.features]
    try:
        response = store.get_online_features(features=refs, entity_rows=list(entities))
        values = response.to_dict()
        times = dict(zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True))
    except Exception as error:
        raise FeatureStoreError(
            f"Feast's online store failed for feature view {request.view.name!r}: {one_line(error)}. Check the store "
            "configured in feature_store.yaml."
        ) from error
    ttl = request.view.ttl
    if not ttl or ttl <= timedelta(0):
        return {name: values[name] for name in request.features}
    oldest = (now - ttl).timestamp()
    return {
        name: [
            value if at.seconds + at.nanos / 1e9 >= oldest else None
            for value, at in zip(values[name], times[name].event_timestamps, strict=True)
        ]
        for name in request.features
    }
