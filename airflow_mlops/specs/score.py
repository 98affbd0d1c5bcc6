"""Batch scoring: what is asked and what comes back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.specs.base import DatasetRef, MLflowTarget, ModelVersionRef, Name, Result, Spec, Window
from airflow_mlops.specs.selection import DatasetLike

# What scoring adds to a row.
PREDICTION_COLUMNS = ("prediction", "score", "model_name", "model_version", "scored_at", "latency_ms")


class ScoreSpec(Spec):
    """Score a dataset with the champion of ``model``.

    :param dataset: rows with the model's features
    :param part: the part of ``dataset`` to score; all parts unless given
    :param window: the time the predictions belong to; that of ``dataset`` unless given
    :param name: the name of the predictions dataset; ``MODEL_predictions`` unless given
    :param on_missing: what to do while the model has no champion: ``fail``, or ``skip`` and return no dataset
    :param allow_pyfunc: whether code that comes with a version may run, see :mod:`airflow_mlops.registry.pyfunc_loading`
    """

    model: Name
    dataset: DatasetLike
    part: str | None = None
    window: Window | None = None
    name: Name | None = None
    on_missing: Literal["fail", "skip"] = "fail"
    allow_pyfunc: bool = Field(default=False, strict=True)
    mlflow: MLflowTarget = MLflowTarget()


class ScoreResult(Result):
    """What scoring wrote.

    :param dataset: the predictions; ``None`` if there is no champion and ``on_missing`` is ``skip``
    :param scored_by: the model version that made them
    :param engine: what computed them, such as ``onnxruntime 1.31.1 (CPUExecutionProvider)`` or ``mlflow.xgboost (mlflow 3.17.2)``
    :param rows_per_second: over the whole step's reading, scoring and writing
    """

    dataset: DatasetRef | None
    scored_by: ModelVersionRef | None = None
    engine: str | None = None
    rows_per_second: float | None = None
