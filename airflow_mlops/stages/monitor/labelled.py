"""Read the labelled predictions of a window, whose performance is measured.

They are written to a temporary file, so that memory does not grow with their number. For metrics that need all rows at
once (:func:`airflow_mlops.metrics.realised.is_measured_in_parts`), they are read into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.realised.spooled import Beside
from airflow_mlops.stages.monitor import clusters, metric_columns
from airflow_mlops.stages.monitor import weights as row_weights
from airflow_mlops.stages.monitor.check import CLUSTER, Check
from airflow_mlops.stages.monitor.weights import Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Rows = TypeVar("_Rows", bound="metrics.Outcomes | metrics.Spooled", covariant=True)


@dataclass(frozen=True)
class LabelledRows(Generic[_Rows]):
    """The labelled predictions of a window.

    :param outcomes: the rows whose performance is measured
    :param labelled: number of rows with a label, including those that are not measured
    """

    outcomes: _Rows
    labelled: int


@contextmanager
def opened(
    check: Check, contract: ModelContract, metric: str, weights: Weights, columns: Sequence[str]
) -> Iterator[LabelledRows[metrics.Outcomes | metrics.Spooled]]:
    """Read the rows for one metric.

    :param check: a check of predictions with the column ``label``
    :param contract: contract of the version that made the predictions
    :param columns: the columns that the metric names (:func:`airflow_mlops.stages.monitor.metric_columns.require`)
    :raises UnmeasurableError: see :func:`airflow_mlops.metrics.realised.outcomes`
    """
    if metrics.is_measured_in_parts(metric):
        with spooled(check, contract, metric, weights, columns) as rows:
            yield LabelledRows(rows, rows.labelled)
        return
    yield in_memory(check, contract, metric, weights, columns)


def in_memory(
    check: Check, contract: ModelContract, metric: str, weights: Weights, columns: Sequence[str]
) -> LabelledRows[metrics.Outcomes]:
    """Read all rows into memory, see :func:`opened`."""
    outcomes = metrics.outcomes(check.batches(metrics.COLUMNS), contract)
    labelled = outcomes.rows + outcomes.skipped
    values = metric_columns.read(check, contract, columns, metric)
    outcomes = replace(outcomes, groups=_groups(check, contract), columns=values)
    if weights.column is not None:
        outcomes = outcomes.weighted(row_weights.values_of(check, contract, weights.column))
    return LabelledRows(outcomes, labelled)


@contextmanager
def spooled(
    check: Check,
    contract: ModelContract,
    metric: str,
    weights: Weights,
    columns: Sequence[str],
    features: Sequence[str] = (),
    beside: tuple[int, Beside] | None = None,
) -> Iterator[metrics.Spooled]:
    """Write the rows for one metric to a temporary file.

    :param columns: the columns that the metric names
    :param features: names of the columns that ``beside`` needs
    :param beside: see :func:`airflow_mlops.metrics.realised.spooled`
    """
    groups = None if check.clusters is None else (CLUSTER, check.clusters.count)
    others = [*([] if weights.column is None else [weights.column]), *([] if groups is None else [CLUSTER])]
    batches = check.batches(list(dict.fromkeys([*metrics.COLUMNS, *columns, *features, *others])))
    order = metrics.order_of_scores(metric)
    with metrics.spooled(
        batches,
        contract,
        check.rows,
        weight=weights.column,
        order=order,
        columns=columns,
        groups=groups,
        beside=beside,
    ) as rows:
        yield rows


def _groups(check: Check, contract: ModelContract) -> NDArray[np.int64] | None:
    """Return the cluster of each row whose performance is measured, shape (n,); ``None`` if rows are independent."""
    if check.clusters is None:
        return None
    rows = metrics.measurable(check.batches([LABEL, "score", CLUSTER]), contract)
    return np.concatenate([np.empty(0, np.int64), *map(clusters.of_batch, rows)])
