"""Read the labelled predictions of a window, whose performance is measured.

They are written to a temporary file, so that memory does not grow with their number. Metrics that need all rows at once
(:func:`airflow_mlops.metrics.realised.is_measured_in_parts`) and rows with clusters (``policy.groups``) are read into
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.realised.spooled import Beside
from airflow_mlops.stages.monitor import clusters, metric_columns
from airflow_mlops.stages.monitor import weights as row_weights
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.weights import Weights

_Rows = TypeVar("_Rows", bound="metrics.Outcomes | metrics.Spooled", covariant=True)


@dataclass(frozen=True)
class LabelledRows(Generic[_Rows]):
    """The labelled predictions of a window.

    :param outcomes: the rows whose performance is measured
    :param labelled: number of rows with a label, including those that are not measured
    """

    outcomes: _Rows
    labelled: int


def are_spooled(check: Check, metric: str) -> bool:
    """Return whether the rows are read in parts, because the metric needs only a part of them at the same time."""
    return check.policy.groups is None and metrics.is_measured_in_parts(metric)


@contextmanager
def opened(
    check: Check, contract: ModelContract, metric: str, weights: Weights, columns: Sequence[str]
) -> Iterator[LabelledRows[metrics.Outcomes | metrics.Spooled]]:
    """Read the rows for one metric.

    :param check: a check of predictions with the column ``label``
    :param contract: contract of the version that made the predictions
    :param columns: the columns that the metric names (:func:`airflow_mlops.stages.monitor.metric_columns.require`)
    :raises UnmeasurableError: see :func:`airflow_mlops.metrics.realised.outcomes`
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    if are_spooled(check, metric):
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
    outcomes = replace(outcomes, groups=clusters.measured(check, contract), columns=values)
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
    wanted = [*metrics.COLUMNS, *columns, *features, *([] if weights.column is None else [weights.column])]
    batches = check.batches(list(dict.fromkeys(wanted)))
    order = metrics.order_of_scores(metric)
    with metrics.spooled(
        batches, contract, check.rows, weight=weights.column, order=order, columns=columns, beside=beside
    ) as rows:
        yield rows
