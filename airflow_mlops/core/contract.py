"""What a stored model promises: its inputs, its outputs and what it was made from."""

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
    """How near a model's ONNX export is to the model itself, on held-out rows.

    A row's difference is the largest of its absolute differences, of probabilities (a classifier) or of the value.

    :param precision: what the export computes in
    :param rows: on how many rows they were compared
    :param max_difference: the largest difference
    :param p99_difference: 99% of the rows differ by at most this
    :param label_flips: rows whose predicted label differs; ``None``, as what follows, for a regression
    :param near_threshold: rows so near the contract's threshold (multiclass: a tie) that the largest difference could
        change their label, those whose label differs among them
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
            f"{text}, {self.label_flips:,} predicted labels differ, and {self.near_threshold:,} rows are near enough to "
            "another label that theirs could"
        )


class ModelContract(Model):
    """Stored beside every model as ``mlops/contract.json``; scoring, evaluation and monitoring read nothing else about it.
    That of a model from elsewhere is found out by evaluation and kept by :mod:`airflow_mlops.models.contracts`.

    :param features: input columns, in order
    :param classes: class labels in the order of the probability columns, as JSON values; empty for regression
    :param positive: for a binary task, the class whose probability is the score
    :param threshold: for a binary task, a score at or above it predicts ``positive``
    :param metrics: what was measured on the held-out part of the training set, by metric name
    :param parity: how near the ONNX export is to the model; ``None`` in contracts from before that was kept
    :param dataset_id: the training set's id; of a model from elsewhere, that of the one it was measured on
    :param dataset_name: the training set's name
    :param timestamp: the training set's event time column, if it has one
    :param watched: columns of the training set that are no features and are monitored like them; scoring keeps those that
        its dataset has
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
