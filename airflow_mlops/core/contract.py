"""The contract of a stored model: its inputs, its outputs and its training set."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model

Task = Literal["binary", "multiclass", "regression"]
Precision = Literal["float32", "float64"]


class FeatureColumn(Model):
    """One input column of a model.

    :param kind: ``number`` (float32 or float64 tensor), ``integer`` (int64) or ``string``
    """

    name: str
    kind: Literal["number", "integer", "string"]


class Parity(Model):
    """The difference between a model and its ONNX export on held-out rows.

    The difference of a row is the largest absolute difference of its probabilities, or that of its value for a regression.

    :param precision: the floating-point type of the export's computation
    :param rows: the number of rows that were compared
    :param max_difference: the largest difference
    :param p99_difference: the 99th percentile of the differences
    :param label_flips: the number of rows whose predicted label differs; ``None``, as the next field, for a regression
    :param near_threshold: the number of rows so near the contract's threshold (multiclass: a tie) that the largest
        difference could change their label, including those whose label differs
    """

    precision: Precision
    rows: int
    max_difference: float
    p99_difference: float
    label_flips: int | None = None
    near_threshold: int | None = None

    def __str__(self) -> str:
        text = (
            f"differs from the model by at most {self.max_difference:.2g} (p99 {self.p99_difference:.2g}) on "
            f"{self.rows:,} held-out rows in {self.precision}"
        )
        if self.label_flips is None:
            return text
        return (
            f"{text}; {self.label_flips:,} predicted labels differ, and {self.near_threshold:,} rows are close enough to the "
            "decision threshold to differ"
        )


class ModelContract(Model):
    """The contract between training and scoring, evaluation and monitoring, stored with the model as
    ``mlops/contract.json``. For a model that was not made by TrainOperator, evaluation derives it and
    :mod:`airflow_mlops.models.contracts` stores it.

    :param features: the input columns, in order
    :param classes: class labels in the order of the probability columns, as JSON values; empty for regression
    :param positive: for a binary task, the class whose probability is the score
    :param threshold: for a binary task, a score at or above it predicts ``positive``
    :param metrics: the metrics on the held-out part of the training set, by name
    :param parity: the difference between model and ONNX export; ``None`` in contracts that predate this field
    :param dataset_id: the training set's id; for a model that was not made by TrainOperator, that of the dataset it was
        measured on
    :param dataset_name: the training set's name
    :param timestamp: the training set's event time column, if it has one
    :param watched: columns of the training set that are not features but are monitored like them; scoring keeps those
        that its dataset has
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    classes: list[Any] = Field(default_factory=list)
    positive: Any = None
    threshold: float = 0.5
    metrics: dict[str, float] = Field(default_factory=dict)
    parity: Parity | None = None
    dataset_name: str
    dataset_id: str
    timestamp: str | None = None
    watched: list[str] = Field(default_factory=list)
