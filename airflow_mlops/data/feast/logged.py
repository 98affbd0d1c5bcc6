"""Features of Feast among the columns of a training set and of the log of predictions."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import FeatureStoreError
from airflow_mlops.data.datasets import Manifest
from airflow_mlops.data.feast.request import FeatureRequest, arrow_type
from airflow_mlops.data.types import as_doubles

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def feature_refs(training: Manifest, columns: Collection[str]) -> dict[str, str]:
    """Return the Feast reference ``view:feature`` of each column that comes from Feast, by name of the column.

    :param training: manifest of the training set
    :param columns: names of columns of the training set
    """
    found = {}
    for ref in training.details.get("feature_refs") or ():
        # In a training set, a feature has its own name, or ``view__feature`` if the name alone is ambiguous.
        full = ref.replace(":", "__")
        name = full if full in training.column_names else ref.partition(":")[2]
        if name in columns and name not in training.details.get("keys", ()):
            found[name] = ref
    return found


def entity_types(request: FeatureRequest) -> dict[str, pa.DataType]:
    """Return the types of the join keys and of the inputs of on-demand feature views, by name of the column.

    :raises FeatureStoreError: a type is not declared
    """
    types: dict[str, pa.DataType] = {}
    for view in request.views:
        declared = {field.name: field.dtype for field in view.view.entity_columns}
        for key, column in view.join_keys.items():
            if key not in declared:
                raise FeatureStoreError(
                    f"Feature view {view.view.name!r} does not declare the type of its join key {key!r}. Add the key to its schema."
                )
            types[column] = arrow_type(declared[key], key, view.view.name)
    for item in request.on_demand:
        for source in item.view.source_request_sources.values():
            for field in source.schema:
                types[field.name] = arrow_type(field.dtype, field.name, item.view.name)
    return types


def equal(logged: pa.Array, joined: pa.Array) -> NDArray[np.bool_]:
    """Return in which rows a logged feature has the joined value, shape (n,).

    The log has numbers and booleans as doubles. NaN stands for a missing number, so it is equal to null. 0.0 and -0.0
    are equal.

    :param logged: values in the log
    :param joined: values of the point-in-time join, of the same length
    """
    if pa.types.is_floating(logged.type):
        if pa.types.is_boolean(joined.type):
            joined = joined.cast(pa.uint8())
        joined = as_doubles(joined) if pa.types.is_decimal(joined.type) else joined.cast(pa.float64(), safe=False)
        logged, joined = (
            pc.if_else(pc.fill_null(pc.is_nan(each), True), None, each) for each in (logged.cast(pa.float64()), joined)
        )
    else:
        joined = joined.cast(logged.type)
    same = pc.fill_null(pc.equal(logged, joined), False)
    found: NDArray[np.bool_] = pc.or_(same, pc.and_(pc.is_null(logged), pc.is_null(joined))).to_numpy(
        zero_copy_only=False
    )
    return found
