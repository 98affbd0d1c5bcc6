"""The model contract: features, label, ML task and training set, stored with each model."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model

Task = Literal["binary", "multiclass", "regression"]
Precision = Literal["float32", "float64"]

THRESHOLD = 0.5
"""The probability of the positive class from which on a binary model predicts it, unless the model sets a threshold."""


class FeatureColumn(Model):
    """A feature as the model receives it: its column and its input type.

    :param name: name of the column
    :param kind: input type: ``number`` (tensor of float32 or float64), ``integer`` (tensor of int64) or ``string``
    """

    name: str
    kind: Literal["number", "integer", "string"]


class Parity(Model):
    """The difference between the predictions of a model and of its ONNX export on held-out rows.

    For each row, the difference is the largest absolute difference between class probabilities or, for a regression,
    the absolute difference between the predicted values.

    :param precision: floating-point type in which the ONNX export computes
    :param rows: number of compared rows
    :param max_difference: largest difference of a row
    :param p99_difference: 99th percentile of the differences
    :param label_flips: number of rows whose predicted label differs; ``None`` for a regression
    :param near_threshold: number of rows whose label a difference of ``max_difference`` could change, because their
        score is close to the decision threshold or, for a multiclass task, their two highest probabilities are close to
        each other. It includes the rows counted in ``label_flips``; ``None`` for a regression
    :param label_deviation: for a regression, the standard deviation of the labels in training; ``None`` for
        classification, and in contracts that predate this field
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
            f"{text}; {self.label_flips:,} predicted labels differ, and {self.near_threshold:,} rows are close enough "
            "to the decision threshold to differ"
        )


class ModelContract(Model):
    """The contract of a model: its features, label, ML task and training set.

    Training writes the contract, and scoring, evaluation and monitoring read it. It is stored with the model as
    ``mlops/contract.json``. For a model that TrainOperator did not train, evaluation derives the contract, and
    :mod:`airflow_mlops.models.contracts` stores it.

    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param label: name of the column that the model predicts
    :param features: input columns, in order
    :param classes: class labels in the order of the probability columns, as JSON values; empty for a regression
    :param positive: for a binary task, the class that the model's score is the probability of
    :param threshold: for a binary task, a score at or above it predicts ``positive``
    :param metrics: metrics on held-out rows, by name of the metric
    :param parity: difference between the model and its ONNX export; ``None`` in contracts that predate this field
    :param dataset_id: id of the training set; for a model that TrainOperator did not train, id of the dataset on which
        it was evaluated
    :param dataset_name: name of the dataset with the id ``dataset_id``
    :param timestamp: event time column of that dataset; ``None`` if it has no such column
    :param watched: columns of the training set that are monitored like features but are not features. Scoring copies
        those that exist in the scored dataset
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    classes: list[Any] = Field(default_factory=list)
    positive: Any = None
    threshold: float = THRESHOLD
    metrics: dict[str, float] = Field(default_factory=dict)
    parity: Parity | None = None
    dataset_name: str
    dataset_id: str
    timestamp: str | None = None
    watched: list[str] = Field(default_factory=list)

    def with_positive(self, positive: Any) -> ModelContract:
        """Return the contract of the same binary model whose score is the probability of the class ``positive``."""
        if positive == self.positive:
            return self
        return self.model_copy(update={"positive": positive, "threshold": opposite_threshold(self.threshold)})


def opposite_threshold(threshold: float) -> float:
    """Return the decision threshold on the probability of the other class: ``p >= threshold`` is ``not 1 - p > 1 - threshold``."""
    return math.nextafter(1 - threshold, math.inf)
