"""The clusters of the checked predictions (``policy.groups``), for tests that allow for dependent rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.clusters import design_effect, equal_rows
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.clusters import Design, alike, codes, dense
from airflow_mlops.profiles import multivariate
from airflow_mlops.profiles.labels import labels
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_mlops.profiles.profile import ColumnProfile


def measured(check: Check, contract: ModelContract) -> NDArray[np.int64] | None:
    """Return the cluster of each row whose performance is measured, shape (n,); ``None`` if rows are independent.

    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = group_column(check)
    if column is None:
        return None
    return metrics.clusters(check.batches(list(dict.fromkeys([LABEL, "score", column]))), contract, column)


def of_scores(check: Check) -> Design | None:
    """Return how much clusters widen an interval of the scored predictions, if all errors within a cluster are equal.

    :return: ``None`` if rows are independent
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = group_column(check)
    if column is None:
        return None
    rows = metrics.scored(check.batches(list(dict.fromkeys(["score", column]))), labelled=False)
    return alike(codes(pa.chunked_array([plain(batch.column(column)) for batch in rows])))


def of_rows(check: Check) -> NDArray[np.int64] | None:
    """Return the number of the cluster of each row, from 0 without gaps, shape (n,); ``None`` if rows are independent.

    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = group_column(check)
    return None if column is None else dense(codes(_read(check, column)))


def designs(check: Check, columns: Mapping[str, ColumnProfile]) -> dict[str, float]:
    """Return the design effect of each column and of the reconstruction error, by name. One column is read at a time.

    The result is empty if rows are independent, or if there are no rows. Columns that are absent from the predictions
    are left out.

    :param columns: profiles of the columns at training, by name
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    group = group_column(check)
    if group is None or not check.rows:
        return {}
    # With consecutive numbers, the rows of each cluster can be counted without sorting, once for each property of a column.
    clusters = dense(codes(_read(check, group)))
    found = {
        name: design_effect(_read(check, name), clusters, column)
        for name, column in columns.items()
        if check.has_columns(name)
    }
    return {**found, multivariate.ERROR: equal_rows(clusters)}


def label_design(check: Check, contract: ModelContract, column: ColumnProfile) -> float:
    """Return the design effect of the labels; 1 if rows are independent, or if there are no labels.

    :param column: profile of the labels at training
    """
    group = group_column(check)
    if group is None:
        return 1.0
    values, groups = [], []
    for batch in check.batches(list(dict.fromkeys([LABEL, group]))):
        known = pc.invert(pc.is_null(batch.column(LABEL), nan_is_null=True))
        groups.append(batch.column(group).filter(known))
        values += [item.column(LABEL) for item in labels([batch], contract)]
    return design_effect(pa.chunked_array(values), codes(pa.chunked_array(groups)), column) if values else 1.0


def group_column(check: Check) -> str | None:
    """Return the column that names the clusters; ``None`` if rows are independent.

    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    column = check.policy.groups
    if column is not None and not check.has_columns(column):
        raise SpecError(
            f"policy.groups={column!r} is not a column of the predictions. Keep this column in the scored dataset, for "
            "example as a key, or set another column."
        )
    return column


def _read(check: Check, name: str) -> pa.ChunkedArray:
    return pa.chunked_array([plain(batch.column(name)) for batch in check.batches([name])])


def plain(array: pa.Array) -> pa.Array:
    """Return the values of a dictionary array as a plain array. Any other array is returned unchanged."""
    # Batches may have different dictionaries, or types that differ in width.
    return array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
