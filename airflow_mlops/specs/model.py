"""What a stored model promises: its inputs, its outputs and what it was made from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.specs.base import Model

Task = Literal["binary", "multiclass", "regression"]


class FeatureColumn(Model):
    """One input column of a model.

    :param kind: ``number`` (float32 or float64 tensor), ``integer`` (int64) or ``string``
    """

    name: str
    kind: Literal["number", "integer", "string"]


class ModelContract(Model):
    """Stored beside every model as ``mlops/contract.json``; scoring, evaluation and monitoring read nothing else about it.
    That of a model from elsewhere is found out by evaluation and kept by :mod:`airflow_mlops.registry.contracts`.

    :param features: input columns, in order
    :param classes: class labels in the order of the probability columns, as JSON values; empty for regression
    :param positive: for a binary task, the class whose probability is the score
    :param threshold: for a binary task, a score at or above it predicts ``positive``
    :param metrics: what was measured on the held-out part of the training set, by metric name
    :param dataset_id: the training set's id; of a model from elsewhere, that of the one it was measured on
    :param dataset_name: the training set's name
    :param timestamp: the training set's event time column, if it has one
    """

    task: Task
    label: str
    features: list[FeatureColumn]
    classes: list[Any] = Field(default_factory=list)
    positive: Any = None
    threshold: float = 0.5
    metrics: dict[str, float] = Field(default_factory=dict)
    dataset_name: str
    dataset_id: str
    timestamp: str | None = None
