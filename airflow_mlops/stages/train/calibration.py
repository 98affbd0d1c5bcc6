"""Calibrate the probabilities of a candidate by the method of the training (``calibration=``).

The calibration functions are fitted to rows that :mod:`airflow_mlops.stages.train.aside` sets aside. If the training
has a column of weights, each of these rows counts by its weight. The functions become a part of the model, so its
predictions in Python and its ONNX export are calibrated. Scoring, serving, gates and monitoring use the export, and
therefore calibrated probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import THRESHOLD, Calibration, ModelContract, ReliabilityPoint, Task
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.sample_weights import sample_weights
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.metrics.rows import encode, is_positive, predicted
from airflow_mlops.metrics.values import measure, reliability
from airflow_mlops.metrics.weighted import scaled
from airflow_mlops.models import calibration, parity
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.rules.calibration import CalibrationRule
from airflow_mlops.models.trainers.base import FittedModel, TrainingData
from airflow_mlops.models.trainers.calibrated import CalibratedModel
from airflow_mlops.stages.train.aside import SetAside

if TYPE_CHECKING:
    from numpy.typing import NDArray

_METRICS = ("log_loss", "brier", "ece")


def check_task(rule: CalibrationRule | None, task: Task) -> None:
    """Check that a model of the ML task has probabilities.

    :raises SpecError: a calibration is set, and the ML task is a regression
    """
    if rule is not None and task == "regression":
        raise SpecError(
            "`calibration` is set, but a regression model has no probabilities to calibrate. Remove `calibration`."
        )


def calibrated(
    rule: CalibrationRule,
    model: FittedModel,
    contract: ModelContract,
    aside: SetAside | None,
    part: str | None,
    train: TrainingData,
    test: TrainingData,
) -> tuple[FittedModel, ModelContract]:
    """Calibrate a model.

    :param contract: contract of the model without calibration
    :param aside: the rows to fit the calibration to; ``None`` if the rule contains the fitted calibration functions of
        an earlier training
    :param part: name of the split part that the training reads; ``None`` for all rows
    :param train: the rows that the model was fitted to
    :param test: rows of the split part ``test``, on which the probabilities without calibration are measured
    :return: the calibrated model, and its contract with the calibration
    :raises SpecError: the estimator sets a threshold
    :raises TrainingError: too few of the rows have a weight above 0
    :raises ModelFormatError: the model cannot be exported to ONNX
    """
    if contract.threshold != THRESHOLD:
        raise SpecError(
            f"`calibration` cannot be used, because the estimator has its own threshold ({contract.threshold:g}), which applies to probabilities "
            "that are not calibrated. Remove `calibration`, or set `threshold` instead of the TunedThresholdClassifierCV or FixedThresholdClassifier."
        )
    method, classes = rule.method, len(contract.classes)
    if classes > 2 and method != "temperature" and rule.maps and len(rule.maps) != classes:
        # The classes of the refit differ from those of the judged version. The signature check of the refit fails
        # later.
        return model, contract
    if aside is None:
        found = Calibration(method=method, maps=rule.maps)
    else:
        first = parity.export(model, contract, train, test, lambda message: None)
        probabilities, codes, weight = _rows(OnnxModel(first.content, contract), aside, part)
        if weight is not None:
            calibration.require_rows(method, codes, range(classes), f"{aside.source}, with a weight above 0")
            weight = scaled(weight)
        found = Calibration(
            method=method,
            maps=calibration.fit(method, probabilities, codes, weight),
            rows=len(codes),
            source=aside.source,
            before=measured(contract, test, first.predictions),
            curve_before=_curve(contract, test, first.predictions),
        )
    return CalibratedModel(model, method, found.maps, classes), contract.model_copy(update={"calibration": found})


def with_metrics(
    contract: ModelContract, test: TrainingData, predictions: Predictions, progress: Callable[[str], None]
) -> ModelContract:
    """Return the contract with the metrics of the calibrated probabilities, and write them to the task's log.

    :param predictions: predictions of the calibrated model for ``test``
    :param progress: function that writes a message to the task's log
    """
    found = contract.calibration
    if found is None or not found.rows:
        return contract
    after = measured(contract, test, predictions)
    changes = ", ".join(f"{name} {found.before[name]:.4g} becomes {value:.4g}" for name, value in after.items())
    progress(
        f"The probabilities are calibrated ({found.method}) on {found.rows:,} training rows that the model was not fitted to "
        f"({found.source}). On the {len(test.labels):,} held-out rows, {changes}."
    )
    return contract.model_copy(update={"calibration": found.model_copy(update={"after": after})})


def measured(contract: ModelContract, test: TrainingData, predictions: Predictions) -> dict[str, float]:
    """Return log loss and, for a binary task, Brier score and calibration error, by name of the metric."""
    found = measure(predicted(test.labels, predictions, contract, test.metric_weights))
    return {name: found[name] for name in _METRICS if name in found}


def _curve(contract: ModelContract, test: TrainingData, predictions: Predictions) -> list[ReliabilityPoint]:
    if contract.task != "binary":
        return []
    truth = is_positive(test.labels, contract.classes, contract.positive)
    bins = zip(*reliability(truth, predictions.score, test.metric_weights), strict=True)
    return [ReliabilityPoint(predicted=predicted, observed=observed, rows=rows) for predicted, observed, rows in bins]


def _rows(
    model: OnnxModel, aside: SetAside, part: str | None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64] | None]:
    """Return probabilities, classes and weights of the rows set aside.

    Rows of a class that the model does not know, and rows with the weight 0, are left out.

    :return: the probabilities, shape (n, k); the position of each row's class, shape (n,); and the weight of each row
        in metrics, shape (n,), or ``None`` if each row counts once
    """
    contract = model.contract
    batches = [batch.probabilities for batch in aside.predictions(model, part)]
    probabilities = np.concatenate([batch for batch in batches if batch is not None])
    codes = encode(aside.labels(contract, part), contract.classes)
    if contract.sample_weight is None:
        return probabilities[codes >= 0], codes[codes >= 0], None
    weight = sample_weights(aside.chosen, part, contract.sample_weight)
    counted = (codes >= 0) & (weight > 0)
    return probabilities[counted], codes[counted], weight[counted]
