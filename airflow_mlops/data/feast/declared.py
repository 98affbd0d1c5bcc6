"""Cast features to the types that their feature views declare."""

from __future__ import annotations

import pyarrow as pa

from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.types import cast


def as_declared(found: pa.Table, views: list[ViewRequest]) -> pa.Table:
    """Cast the features to the types that their views declare.

    :param found: table with the column ``alias:feature`` of each feature
    :param views: the feature views and their features
    :raises FeatureStoreError: the values of a feature cannot be cast to its declared type
    """
    return pa.table(
        {
            f"{view.alias}:{name}": cast_feature(found[f"{view.alias}:{name}"], view, name)
            for view in views
            for name in view.features
        }
    )


def cast_feature(column: pa.Array | pa.ChunkedArray, request: ViewRequest, name: str) -> pa.Array | pa.ChunkedArray:
    """Cast the values of one feature to its declared type. Structs and maps are returned unchanged.

    :raises FeatureStoreError: the values cannot be cast
    """
    kind = request.features[name]
    if pa.types.is_nested(kind) and not pa.types.is_list(kind):
        return column
    try:
        return cast(column, kind, f"Feature {name!r} of feature view {request.view.name!r}")
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise FeatureStoreError(
            f"Feature {name!r} of feature view {request.view.name!r} is declared as {kind}, but its source contains "
            f"{column.type}: {str(error).splitlines()[0]}. Correct the declared type or the source."
        ) from None
