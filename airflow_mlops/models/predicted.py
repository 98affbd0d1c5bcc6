"""Add the columns of predictions to scored rows, in the same way for scoring in batches and online."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.columns import PREDICTION_COLUMNS

if TYPE_CHECKING:
    import numpy as np


def with_predictions(
    batch: pa.RecordBatch,
    contract: ModelContract,
    version: ModelVersionRef,
    prediction: np.ndarray,
    score: np.ndarray,
    scored_at: pa.Array,
    latency_ms: pa.Array,
) -> pa.RecordBatch:
    """Return the rows with the columns of predictions (:data:`~airflow_mlops.data.columns.PREDICTION_COLUMNS`).

    :param batch: the scored rows
    :param prediction: predicted labels or values, shape (n,)
    :param score: probabilities of the positive or predicted class, or values, shape (n,)
    :param scored_at: time of each prediction, as timestamps in UTC, shape (n,)
    :param latency_ms: time that each prediction took, in milliseconds, shape (n,)
    :raises EvaluationError: a predicted label is not one of the classes of the contract
    """
    rows = batch.num_rows
    try:
        predicted = pa.array(prediction, _prediction_type(contract))
    except pa.ArrowException as error:
        # A model that TrainOperator did not train may return any label.
        raise EvaluationError(
            f"{version} predicted a label that is not one of its classes {contract.classes}: {error}. Evaluate and "
            "promote a version that predicts only these classes."
        ) from error
    added = [
        predicted,
        pa.array(score, pa.float64()),
        pa.repeat(pa.scalar(version.model), rows),
        pa.repeat(pa.scalar(version.version, pa.int64()), rows),
        scored_at,
        latency_ms,
    ]
    fields = [
        *batch.schema,
        *(pa.field(name, array.type) for name, array in zip(PREDICTION_COLUMNS, added, strict=True)),
    ]
    return pa.RecordBatch.from_arrays([*batch.columns, *added], schema=pa.schema(fields))


def _prediction_type(contract: ModelContract) -> pa.DataType:
    return pa.float64() if contract.task == "regression" else pa.array(contract.classes).type
