"""What later windows of a model's predictions are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.monitoring.calibration import calibrate
from airflow_mlops.monitoring.performance import outcomes
from airflow_mlops.monitoring.profiles import ModelProfile, profile
from airflow_mlops.registry.scorer import Predictions
from airflow_mlops.specs.model import ModelContract

if TYPE_CHECKING:
    import numpy.typing as npt


def model_profile(
    training: Iterable[pa.RecordBatch], contract: ModelContract, truth: npt.NDArray[Any], predictions: Predictions
) -> ModelProfile:
    """What the features looked like, what was predicted for the held-out part, and what that was worth.

    :param training: the rows of the training part
    :param truth: the labels of the held-out part, shape (n,)
    :param predictions: for the same rows
    """
    scores = pa.RecordBatch.from_pydict({"score": pa.array(predictions.score)})
    labelled = pa.RecordBatch.from_pydict(
        {"label": truth, "prediction": predictions.prediction, "score": predictions.score}
    )
    return ModelProfile(
        features=profile(training, [feature.name for feature in contract.features]),
        scores=profile([scores]),
        calibration=calibrate(contract.task, outcomes([labelled], contract)),
    )
