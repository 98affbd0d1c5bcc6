"""The costs of the rows of a window, if the metric of the policy is an expected cost that names a column.

The column comes with the scored rows. A window in which only some rows have valid costs is not measured, because leaving
out the other rows would give a different metric under the same name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.privacy import hashed_or_dropped
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.costs import cost_columns
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read(check: Check, contract: ModelContract, metric: str) -> dict[str, NDArray[np.float64]]:
    """Read the columns of costs that a metric names, for the rows whose performance is measured, each of shape (n,).

    :param check: a check of predictions with the column ``label``
    :param contract: contract of the version that made the predictions
    :param metric: name of the metric
    :raises UnmeasurableError: the predictions lack a column, or some values are not costs
    """
    columns = cost_columns([metric])
    if not columns:
        return {}
    for column in columns:
        fates = {hashed_or_dropped(item.manifest.details).get(column) for item in check.datasets} - {None}
        if fates:
            raise metrics.UnmeasurableError(
                f"scoring {' or '.join(sorted(map(str, fates)))} column {column!r}, which contains the costs"
            )
        if not check.has_columns(column):
            raise metrics.UnmeasurableError(f"the predictions do not have column {column!r}, which contains the costs")
    return metrics.costs(check.batches(list(dict.fromkeys([LABEL, "score", *columns]))), contract, columns)
