"""Read the labelled predictions of a window, whose performance is measured.

They are written to a temporary file, so that memory does not grow with their number. Metrics that need all rows at once
(:func:`airflow_mlops.metrics.realised.is_measured_in_parts`) and rows with clusters (``policy.groups``) are read into
memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.realised.spooled import Beside
from airflow_mlops.stages.monitor import clusters
from airflow_mlops.stages.monitor import weights as row_weights
from airflow_mlops.stages.monitor.check import Check
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


def are_spooled(check: Check, metric: str) -> bool:
    """Return whether the rows are read in parts, because the metric needs only a part of them at the same time."""
    return check.policy.groups is None and metrics.is_measured_in_parts(metric)


@contextmanager
def opened(
    check: Check, contract: ModelContract, metric: str, weights: Weights, columns: Mapping[str, NDArray[Any]]
) -> Iterator[LabelledRows[metrics.Outcomes | metrics.Spooled]]:
    """Read the rows for one metric.

    :param check: a check of predictions with the column ``label``
    :param contract: contract of the version that made the predictions
    :param columns: the columns that the metric names, for the rows with a label, each of shape (n,)
    :raises UnmeasurableError: see :func:`airflow_mlops.metrics.realised.outcomes`
    :raises SpecError: the predictions do not have the column ``policy.groups``
    """
    if are_spooled(check, metric):
        with spooled(check, contract, metric, weights) as rows:
            yield LabelledRows(rows, rows.labelled)
        return
    yield in_memory(check, contract, weights, columns)


def in_memory(
    check: Check, contract: ModelContract, weights: Weights, columns: Mapping[str, NDArray[Any]]
) -> LabelledRows[metrics.Outcomes]:
    """Read all rows into memory, see :func:`opened`."""
    outcomes = metrics.outcomes(check.batches(metrics.COLUMNS), contract)
    labelled = outcomes.rows + outcomes.skipped
    outcomes = replace(outcomes, groups=clusters.measured(check, contract), columns=columns)
    if weights.column is not None:
        outcomes = outcomes.weighted(row_weights.values_of(check, contract, weights.column))
    return LabelledRows(outcomes, labelled)


@contextmanager
def spooled(
    check: Check,
    contract: ModelContract,
    metric: str,
    weights: Weights,
    features: Sequence[str] = (),
    beside: tuple[int, Beside] | None = None,
) -> Iterator[metrics.Spooled]:
    """Write the rows for one metric to a temporary file.

    :param features: names of the columns that ``beside`` needs
    :param beside: see :func:`airflow_mlops.metrics.realised.spooled`
    """
    wanted = [*metrics.COLUMNS, *features, *([] if weights.column is None else [weights.column])]
    batches = check.batches(list(dict.fromkeys(wanted)))
    by_score = metric == "roc_auc"
    with metrics.spooled(
        batches, contract, check.rows, weight=weights.column, by_score=by_score, beside=beside
    ) as rows:
        yield rows
