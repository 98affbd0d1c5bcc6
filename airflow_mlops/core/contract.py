"""The model contract: features, label, ML task and training set, stored with each model."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model

Task = Literal["binary", "multiclass", "regression"]
Precision = Literal["float32", "float64"]
CalibrationMethod = Literal["isotonic", "sigmoid", "temperature"]

THRESHOLD = 0.5
"""The default decision threshold. A binary model predicts the positive class if the probability of that class is at
least the threshold."""


class FeatureColumn(Model):
    """An input column of a model.

    :param name: name of the column
    :param kind: input type: ``number`` (tensor of float32 or float64), ``integer`` (tensor of int64) or ``string``
    """

    name: str
    kind: Literal["number", "integer", "string"]


class Parity(Model):
    """A comparison of the predictions of a model with the predictions of its ONNX export, on held-out rows.

    Each row has one difference. For classification, it is the largest absolute difference between the probabilities of
    a class. For regression, it is the absolute difference between the predicted values.

    :param precision: floating-point type in which the ONNX export computes
    :param rows: number of compared rows
    :param max_difference: largest difference over all rows
    :param p99_difference: 99th percentile of the differences
    :param label_flips: number of rows for which model and export predict different labels; ``None`` for a regression
    :param near_threshold: number of rows for which a difference of ``max_difference`` could change the predicted label.
        In a binary task, the score of such a row is close to the decision threshold. In a multiclass task, the two
        highest probabilities are close to each other. The number includes the rows of ``label_flips``. ``None`` for a
        regression
    :param label_deviation: for a regression, the standard deviation of the training labels. ``None`` for
        classification, and in contracts written before this field existed
    """

    precision: Precision
    rows: int
    max_difference: float
    p99_difference: float
    label_flips: int | None = None
    near_threshold: int | None = None
    label_deviation: float | None = None

    def __str__(self) -> str:
        share = ""
        if self.label_deviation:
            share = f", {self.max_difference / self.label_deviation:.2g} of the labels' standard deviation"
        text = (
            f"differs from the model by at most {self.max_difference:.2g} (p99 {self.p99_difference:.2g}"
            f"{share}) on {self.rows:,} held-out rows in {self.precision}"
        )
        if self.label_flips is None:
            return text
        return (
            f"{text}; predicted labels that differ: {self.label_flips:,}; rows so close to the decision threshold that "
            f"they may differ: {self.near_threshold:,}"
        )


class ThresholdPoint(Model):
    """Precision, recall and share of positive predictions of a binary model at one decision threshold.

    They are measured on the rows on which the threshold was chosen.

    :param threshold: the threshold
    :param precision: share of positive rows among the rows that are predicted to be positive; ``None`` if there are no
        such rows
    :param recall: share of the positive rows that are predicted to be positive
    :param positives: share of all rows that are predicted to be positive
    """

    threshold: float
    precision: float | None
    recall: float
    positives: float


class ThresholdChoice(Model):
    """How the decision threshold of a model was set with ``threshold=``.

    :param rule: description of the rule
    :param rows: number of rows on which the threshold was chosen. They are part of the split part `train`, but the
        model was not fitted to them. 0 for a threshold that was given as a number
    :param source: description of how these rows were chosen; empty if ``rows`` is 0
    :param point: precision, recall and share of positive predictions at the threshold; ``None`` if ``rows`` is 0
    :param curve: the same at other thresholds, in descending order of the threshold; empty if ``rows`` is 0
    """

    rule: str
    rows: int = 0
    source: str = ""
    point: ThresholdPoint | None = None
    curve: list[ThresholdPoint] = Field(default_factory=list)


class CalibrationMap(Model):
    """A function that calibrates the score of a class, see :mod:`airflow_mlops.models.calibration`.

    :param slope: factor of the score; for ``temperature``, the inverse temperature. Not used by ``isotonic``
    :param intercept: summand of the score; not used by ``isotonic``
    :param scores: for ``isotonic``, the scores at which the pieces of the piecewise-linear function begin or end,
        ascending, shape (m,)
    :param probabilities: for ``isotonic``, the values at ``scores``, shape (m,)
    """

    slope: float = 0.0
    intercept: float = 0.0
    scores: list[float] = Field(default_factory=list)
    probabilities: list[float] = Field(default_factory=list)


class ReliabilityPoint(Model):
    """A bin of a reliability diagram.

    :param predicted: mean predicted probability of the positive class
    :param observed: share of the positive class
    :param rows: number of rows
    """

    predicted: float
    observed: float
    rows: int


class Calibration(Model):
    """How the probabilities of a classifier were calibrated with ``calibration=``.

    :param method: the method
    :param maps: the fitted functions: one for the second class (binary), one for each class (multiclass), or one for
        all classes (``temperature``)
    :param rows: number of rows to which the functions were fitted. They are part of the split part `train`, but the
        model was not fitted to them. 0 if the functions of an earlier training were kept
    :param source: description of how these rows were chosen; empty if ``rows`` is 0
    :param before: log loss and, for a binary task, Brier score and expected calibration error on held-out rows without
        the calibration, by name of the metric; empty if ``rows`` is 0
    :param after: the same metrics with the calibration
    :param curve_before: for a binary task, the reliability diagram of the held-out rows without the calibration
    """

    method: CalibrationMethod
    maps: list[CalibrationMap]
    rows: int = 0
    source: str = ""
    before: dict[str, float] = Field(default_factory=dict)
    after: dict[str, float] = Field(default_factory=dict)
    curve_before: list[ReliabilityPoint] = Field(default_factory=list)


class PredictionInterval(Model):
    """The coverage and the width of the prediction intervals of a regression, as set with ``interval=``.

    The interval of a row reaches from its prediction minus ``margin`` to its prediction plus ``margin``, both ends
    included. :mod:`airflow_mlops.models.conformal` describes the method.

    :param coverage: nominal coverage: share of the labels that should lie in their interval, between 0 and 1
    :param margin: half the width of an interval, in the unit of the label, at least 0
    :param rows: number of rows whose residuals determine the margin. They are part of the split part `train`, but the
        model was not fitted to them. 0 if the margin of an earlier training was kept
    :param source: description of how these rows were chosen; empty if ``rows`` is 0
    """

    coverage: float
    margin: float
    rows: int = 0
    source: str = ""


class TrainingSample(Model):
    """The sample of the training rows to which a model was fitted (``max_rows`` of ``SklearnTrainer``).

    :param rows: number of rows of the sample
    :param of: number of rows from which the sample was drawn
    """

    rows: int
    of: int

    def __str__(self) -> str:
        return f"a uniform sample of {self.rows:,} of {self.of:,} rows"


class ModelContract(Model):
    """The contract of a model: its features, label, ML task and training set.

    Training writes the contract to ``mlops/contract.json`` in the folder of the model. Scoring, evaluation and
    monitoring read the contract. For a model that TrainOperator did not train, evaluation derives the contract, and
    :mod:`airflow_mlops.models.contracts` stores it.

    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param label: name of the column that the model predicts
    :param features: input columns, in order
    :param classes: class labels in the order of the probability columns, as JSON values; empty for a regression
    :param positive: for a binary task, the positive class. The model's score is the probability of this class
    :param threshold: for a binary task, the decision threshold. The model predicts ``positive`` if the score is at
        least the threshold
    :param threshold_choice: how the threshold was set with ``threshold=``; ``None`` if ``threshold=`` was not set, and
        in contracts written before this field existed
    :param calibration: how the probabilities were calibrated with ``calibration=``; ``None`` if ``calibration=`` was
        not set, and in contracts written before this field existed. The calibration is part of the ONNX export
    :param interval: the prediction intervals that were set with ``interval=``; ``None`` without them, and in contracts
        written before this field existed
    :param metrics: metrics on held-out rows, by name of the metric
    :param judged_by: the metric by which the model is judged if no metric is named, because its objective or its training
        set differs from that of other models of the ML task (:mod:`airflow_mlops.metrics.judged`); ``None`` for the
        default of the ML task, and in contracts written before this field existed
    :param parity: difference between the model and its ONNX export; ``None`` in contracts written before this field
        existed
    :param dataset_id: id of the training set; for a model that TrainOperator did not train, id of the dataset on which
        it was evaluated
    :param dataset_name: name of the dataset with the id ``dataset_id``
    :param timestamp: event time column of the dataset ``dataset_id``; ``None`` if the dataset has no event time column
    :param refit_of: for a refit, number of the original version. A refit is fitted to all rows of the training set,
        including the held-out rows. Its ``metrics`` and the scores in its profile belong to the original version.
        ``None`` for a version that was fitted to the split part ``train`` only
    :param watched: columns of the training set that monitoring compares like features, although the model does not use
        them. Scoring copies a watched column to the predictions if the scored dataset has this column
    :param sample_weight: column of the training set with the weights of the rows in training and in ``metrics``;
        ``None`` if all rows have the same weight, and in contracts written before this field existed. Scoring copies
        the column to the predictions if the scored dataset has it
    :param training_sample: the sample to which the model was fitted; ``None`` if it was fitted to all training rows,
        and in contracts written before this field existed
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    classes: list[Any] = Field(default_factory=list)
    positive: Any = None
    threshold: float = THRESHOLD
    threshold_choice: ThresholdChoice | None = None
    calibration: Calibration | None = None
    interval: PredictionInterval | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    judged_by: str | None = None
    parity: Parity | None = None
    dataset_name: str
    dataset_id: str
    timestamp: str | None = None
    watched: list[str] = Field(default_factory=list)
    refit_of: int | None = None
    sample_weight: str | None = None
    training_sample: TrainingSample | None = None

    def with_positive(self, positive: Any) -> ModelContract:
        """Return the contract of the same binary model with ``positive`` as the positive class.

        The decision threshold is converted, so the predicted labels stay the same. ``threshold_choice`` and the
        reliability diagram are removed, because they describe the other class.
        """
        if positive == self.positive:
            return self
        calibration = self.calibration and self.calibration.model_copy(update={"curve_before": []})
        return self.model_copy(
            update={
                "positive": positive,
                "threshold": opposite_threshold(self.threshold),
                "threshold_choice": None,
                "calibration": calibration,
            }
        )


def opposite_threshold(threshold: float) -> float:
    """Convert a threshold on the probability of one class to the threshold on the probability of the other class.

    With both thresholds, a binary model predicts the same labels.
    """
    return math.nextafter(1 - threshold, math.inf)
