"""Add the columns of predictions to scored rows, in the same way for scoring in batches and online."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import EvaluationError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.columns import INTERVAL_COLUMNS, PREDICTION_COLUMNS
from airflow_mlops.metrics.interval_ends import ends


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

    For a model with prediction intervals, :data:`~airflow_mlops.data.columns.INTERVAL_COLUMNS` follow the score.

    A row whose score is NaN has no prediction: its prediction, its score and the ends of its interval are null. A class
    would be arbitrary, because no probability is the largest. An infinite value is kept.

    :param batch: the scored rows
    :param contract: the model contract
    :param version: the model version
    :param prediction: predicted labels or values, shape (n,)
    :param score: probabilities of the positive or predicted class, or values, shape (n,)
    :param scored_at: time of each prediction, as timestamps in UTC, shape (n,)
    :param latency_ms: time that each prediction took, in milliseconds, shape (n,)
    :raises EvaluationError: a predicted label is not one of the classes of the contract
    """
    rows = batch.num_rows
    unknown = np.isnan(np.asarray(score, np.float64))
    absent = unknown if unknown.any() else None
    try:
        predicted = pa.array(prediction, _prediction_type(contract), mask=absent)
    except pa.ArrowException as error:
        # A model that TrainOperator did not train may return any label.
        raise EvaluationError(
            f"{version} predicted a label that is not one of its classes {contract.classes}: {error}. Evaluate and "
            "promote a version that predicts only these classes."
        ) from error
    prediction_name, score_name, *names = PREDICTION_COLUMNS
    added = {prediction_name: predicted, score_name: pa.array(score, pa.float64(), mask=absent)}
    if contract.interval is not None:
        found = (pa.array(end, mask=absent) for end in ends(contract.interval, score))
        added |= zip(INTERVAL_COLUMNS, found, strict=True)
    others = (
        pa.repeat(pa.scalar(version.model), rows),
        pa.repeat(pa.scalar(version.version, pa.int64()), rows),
        scored_at,
        latency_ms,
    )
    added |= zip(names, others, strict=True)
    fields = [*batch.schema, *(pa.field(name, array.type) for name, array in added.items())]
    return pa.RecordBatch.from_arrays([*batch.columns, *added.values()], schema=pa.schema(fields))


def _prediction_type(contract: ModelContract) -> pa.DataType:
    return pa.float64() if contract.task == "regression" else pa.array(contract.classes).type
