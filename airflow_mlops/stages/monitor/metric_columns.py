"""The columns of a window that the metric of the policy names: costs of rows, or the groups of a ranking.

They come with the scored rows. If only some rows of a window have valid values, the window is not measured: without the
other rows, the result would be a different metric under the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.columns import columns_of, why_invalid
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    from numpy.typing import NDArray


def require(check: Check, contract: ModelContract, metric: str) -> list[str]:
    """Check the columns that a metric names, in the rows whose performance is measured, and return their names.

    :param check: a check of predictions with the column ``label``
    :param contract: contract of the version that made the predictions
    :param metric: name of the metric
    :raises UnmeasurableError: the predictions lack a column, or some values are invalid
    """
    columns = columns_of([metric])
    for column in columns:
        fates = {hashed_or_dropped(item.manifest.details).get(column) for item in check.datasets} - {None}
        if fates:
            raise metrics.UnmeasurableError(
                f"scoring {' or '.join(sorted(map(str, fates)))} column {column!r}, which the metric needs"
            )
        if not check.has_columns(column):
            raise metrics.UnmeasurableError(f"the predictions do not have column {column!r}, which the metric needs")
        batches = check.batches(list(dict.fromkeys([LABEL, "score", column])))
        values = (batch.column(column) for batch in metrics.measurable(batches, contract))
        if (wrong := why_invalid([metric], column, values)) is not None:
            raise metrics.UnmeasurableError(f"column {column!r}, which the metric needs, is {wrong}")
    return columns


def read(check: Check, contract: ModelContract, columns: Sequence[str], metric: str) -> dict[str, NDArray[Any]]:
    """Read the columns that a metric names into memory, for the rows whose performance is measured, each of shape (n,).

    :param columns: the result of :func:`require`; empty if the metric cannot be measured
    """
    if not columns:
        return {}
    return metrics.columns(check.batches(list(dict.fromkeys([LABEL, "score", *columns]))), contract, [metric])
