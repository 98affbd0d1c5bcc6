"""Spec and result of the stage ``score``."""

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
    :param part: the part of ``dataset`` to score; all parts by default
    :param window: the time window of the predictions; by default that of ``dataset``
    :param name: name of the dataset of predictions; ``MODEL_predictions`` by default
    :param on_missing: ``fail`` if the model has no champion, or ``skip`` and return no dataset
    :param allow_pyfunc: whether loading may run code from the model version, see :mod:`airflow_mlops.models.pyfunc.loading`
    :param hash_columns: columns whose values are replaced by keyed hashes in the predictions
    :param drop_columns: columns that are left out of the predictions
    :param hash_conn_id: connection whose password is the key of the hashes
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
            raise ValueError("hash_columns requires hash_conn_id, a connection whose password is the key of the hashes")
        if both := {*self.hash_columns} & {*self.drop_columns}:
            raise ValueError(f"{', '.join(sorted(both))} cannot be both hashed and dropped")
        if own := [name for name in PREDICTION_COLUMNS if name in {*self.hash_columns, *self.drop_columns}]:
            raise ValueError(f"{', '.join(own)} cannot be hashed or dropped, since scoring adds it")
        return self


class ScoreResult(Result):
    """Result of scoring.

    :param dataset: the predictions; ``None`` if there is no champion and ``on_missing`` is ``skip``
    :param scored_by: the model version that made the predictions
    :param engine: the library that computed them, such as ``onnxruntime 1.31.1 (CPUExecutionProvider)`` or ``mlflow.xgboost (mlflow 3.17.2)``
    :param rows_per_second: rows divided by the seconds for reading, scoring and writing
    """

    dataset: DatasetRef | None
    scored_by: ModelVersionRef | None = None
    engine: str | None = None
    rows_per_second: float | None = None
