"""What later windows of a model's predictions are compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.data.columns import LABEL
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.realised import outcomes
from airflow_mlops.profiles import multivariate, segments
from airflow_mlops.profiles.calibration import calibrate
from airflow_mlops.profiles.labels import labels
from airflow_mlops.profiles.profile import ModelProfile, profile

if TYPE_CHECKING:
    import numpy.typing as npt


Read = Callable[[], Iterable[pa.RecordBatch]]


def model_profile(
    training: Read,
    held_out: Read | None,
    contract: ModelContract,
    truth: npt.NDArray[Any],
    predictions: Predictions,
    importance: Mapping[str, float],
) -> ModelProfile:
    """What the features looked like, what was predicted for the held-out part, and what that was worth.

    Memory does not grow with the rows of the two parts.

    :param training: streams the features of the training part; called twice
    :param held_out: the same of the held-out part; ``None`` where that is the training part
    :param truth: the labels of the held-out part, shape (n,)
    :param predictions: for the same rows
    :param importance: each feature's share of the total, where it is known
    """
    scores = pa.RecordBatch.from_pydict({"score": pa.array(predictions.score)})
    labelled = pa.RecordBatch.from_pydict(
        {"label": truth, "prediction": predictions.prediction, "score": predictions.score}
    )
    features = profile(training(), [feature.name for feature in contract.features])
    known = outcomes([labelled], contract)
    return ModelProfile(
        features=features,
        scores=profile([scores]),
        calibration=calibrate(contract.task, known),
        labels=profile(labels([labelled], contract), [LABEL]),
        multivariate=multivariate.learn(training(), features.columns, held_out()) if held_out is not None else None,
        segments=segments.held_out(segments.cut(features.columns), contract, (held_out or training)(), known),
        importance=dict(importance),
    )
