"""The weights of the rows of a window (``sample_weight=`` of TrainOperator), by which realised performance is measured.

The column of weights comes with the scored rows, or with the labels. A window without the column is measured without
weights, and compared with performance at training without weights. A window in which only some rows have valid weights
is not measured. If the other rows were left out or counted once, the result would be a different metric under the same
name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.data.predictions.privacy import hashed_or_dropped
from airflow_mlops.data.sample_weights import CheckedWeights, numbers
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.stages.monitor.check import Check

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Weights:
    """Whether and how the rows of a window are weighted.

    :param column: column with the weights; ``None`` if each row counts once
    :param refused: a clause that explains why the weights cannot be used; ``None`` if they can be used, or there are
        none
    :param notes: sentences of the report about weights
    """

    column: str | None = None
    refused: str | None = None
    notes: list[str] = field(default_factory=list)


def read(check: Check, reference: TrainingReference) -> Weights:
    """Check the weights of the rows whose performance is measured.

    :param check: a check of predictions with the column ``label``
    :param reference: the training reference of the version that made the predictions, whose contract names the column
    """
    column = reference.contract.sample_weight
    if column is None:
        return Weights()
    if (why := _absent(check, reference, column)) is not None:
        return Weights(notes=[unweighted(column, why)])
    found = CheckedWeights()
    for values in _values(check, reference.contract, column):
        found.add(values)
    if not found.rows:
        return Weights()
    if found.missing == found.rows:
        return Weights(notes=[unweighted(column, "the labelled predictions have no values in this column")])
    if found.wrong is not None:
        fix = (
            f"The weights in column {column!r} (sample_weight) must be finite numbers of at least 0. Score the window again with "
            "valid weights, or without the column (drop_columns) to count each row once."
        )
        return Weights(refused=f"the weights in column {column!r} are {found.wrong}", notes=[fix])
    said = (
        f"Realised performance is weighted by column {column!r} (sample_weight), in the window and at training. Drift, "
        "fairness and the rate of positives count each row once."
    )
    return Weights(column, notes=[said])


def values_of(check: Check, contract: ModelContract, column: str) -> NDArray[np.float64]:
    """Return the weight of each row whose performance is measured, shape (n,).

    :param contract: contract of the version that made the predictions
    :param column: column with the weights, from :func:`read`
    """
    return np.concatenate([numbers(values) for values in _values(check, contract, column)])


def _values(check: Check, contract: ModelContract, column: str) -> Iterator[pa.Array]:
    wanted = list(dict.fromkeys([LABEL, "score", column]))
    return (batch.column(column) for batch in metrics.measurable(check.batches(wanted), contract))


def _absent(check: Check, reference: TrainingReference, column: str) -> str | None:
    """Return a clause that explains why the window is not weighted by ``column``; ``None`` if it can be weighted."""
    fates = {hashed_or_dropped(item.manifest.details).get(column) for item in check.datasets} - {None}
    if fates:
        return f"scoring {' or '.join(sorted(map(str, fates)))} this column"
    if not check.has_columns(column):
        return "the predictions do not have this column"
    if reference.profile.weighted is None:
        return "performance at training with weights is not stored with the version"
    return None


def unweighted(column: str, why: str) -> str:
    """Return a note that weights of rows are not used, and why.

    :param why: the reason, as a clause
    """
    return (
        f"Performance in production and at training is not weighted by column {column!r} (sample_weight), because {why}. The "
        "training of the model and the gates used these weights."
    )
