"""Batch scoring: what is asked and what comes back."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetLike, DatasetRef, MLflowTarget, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import PREDICTION_COLUMNS


class ScoreSpec(Spec):
    """Score a dataset with the champion of ``model``.

    :param dataset: rows with the model's features
    :param part: the part of ``dataset`` to score; all parts unless given
    :param window: the time the predictions belong to; that of ``dataset`` unless given
    :param name: the name of the predictions dataset; ``MODEL_predictions`` unless given
    :param on_missing: what to do while the model has no champion: ``fail``, or ``skip`` and return no dataset
    :param allow_pyfunc: whether code that comes with a version may run, see :mod:`airflow_mlops.models.pyfunc.loading`
    :param hash_columns: columns of which the predictions keep a keyed hash instead of the value
    :param drop_columns: columns that the predictions do not keep
    :param hash_conn_id: the connection whose password is the key of the hashes
    """

    model: Name
    dataset: DatasetLike
    part: str | None = None
    window: Window | None = None
    name: Name | None = None
    on_missing: Literal["fail", "skip"] = "fail"
    allow_pyfunc: bool = Field(default=False, strict=True)
    hash_columns: list[str] = Field(default_factory=list)
    drop_columns: list[str] = Field(default_factory=list)
    hash_conn_id: str | None = None
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _private(self) -> ScoreSpec:
        if self.hash_columns and not self.hash_conn_id:
            raise ValueError("hash_columns needs hash_conn_id, a connection whose password is the key of the hashes")
        if both := {*self.hash_columns} & {*self.drop_columns}:
            raise ValueError(f"{', '.join(sorted(both))} cannot be both hashed and dropped")
        if own := [name for name in PREDICTION_COLUMNS if name in {*self.hash_columns, *self.drop_columns}]:
            raise ValueError(f"{', '.join(own)} cannot be hashed or dropped: without it these are no predictions")
        return self


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
