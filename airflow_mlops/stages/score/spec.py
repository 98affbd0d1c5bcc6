"""Spec and result of the stage ``score``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result
from airflow_mlops.core.references import (
    AnyTableTarget,
    AnyWrittenTable,
    DatasetLike,
    DatasetRef,
    MLflowTarget,
    ModelVersionRef,
)
from airflow_mlops.core.shards import ShardedSpec
from airflow_mlops.core.windows import Window
from airflow_mlops.data.columns import check_private, predictions_name


class ScoreSpec(ShardedSpec):
    """Parameters of scoring, which predicts the rows of a dataset with a version of a model.

    With ``version`` or ``alias``, the predictions are shadow predictions, which are not used for decisions. They are
    stored separately from the predictions of the champion.

    :param model: name of the registered model
    :param version: number of the version to score with; by default the champion
    :param alias: alias in MLflow of the version to score with, such as ``challenger``; by default the champion
    :param dataset: dataset with the columns of the model's features
    :param part: split part of ``dataset`` to score (``train`` or ``test``); by default all rows
    :param window: time window of the predictions; by default the window of ``dataset``. It may differ from the window of
        ``dataset`` only with ``part``, and lies inside it
    :param name: name of the dataset of predictions; by default the name of the model followed by ``_predictions`` or,
        for shadow predictions, by ``_shadow_predictions``
    :param on_missing: what happens if the model has no champion, or no version with the alias. ``fail`` fails the task;
        ``skip`` writes no dataset
    :param allow_pyfunc: whether code that is stored in the model version may run when the model is loaded, see
        :mod:`airflow_mlops.models.pyfunc.loading`
    :param explain: whether to write the attribution of each feature to each prediction, see
        :mod:`airflow_mlops.models.attributions`
    :param hash_columns: columns to write as keyed hashes (pseudonyms) instead of their values
    :param drop_columns: columns of ``dataset`` that are not written to the predictions
    :param hash_conn_id: id of the Airflow connection with the secret key for the hashes as password; required with
        ``hash_columns``
    :param write_to: table of a database, Delta table or Iceberg table, into which the predictions are written as well;
        by default no table
    :param mlflow: MLflow server with the registered model
    """

    model: Name
    version: int | None = Field(default=None, ge=1)
    alias: str | None = Field(default=None, min_length=1)
    dataset: DatasetLike
    part: str | None = None
    window: Window | None = None
    name: Name | None = None
    on_missing: Literal["fail", "skip"] = "fail"
    allow_pyfunc: bool = Field(default=False, strict=True)
    explain: bool = False
    hash_columns: list[str] = Field(default_factory=list)
    drop_columns: list[str] = Field(default_factory=list)
    hash_conn_id: str | None = None
    write_to: AnyTableTarget | None = None
    mlflow: MLflowTarget = MLflowTarget()

    @property
    def shadow(self) -> bool:
        """Return whether the predictions are shadow predictions."""
        return self.version is not None or self.alias is not None

    @property
    def predictions(self) -> str:
        """Return the name of the dataset of predictions."""
        return self.name or predictions_name(self.model, "shadow" if self.shadow else None)

    @model_validator(mode="after")
    def _apart_from_champion(self) -> ScoreSpec:
        if self.version is not None and self.alias is not None:
            raise ValueError("`version` and `alias` are both set. Remove one of them.")
        if self.shadow and self.name == predictions_name(self.model):
            raise ValueError(
                f"`name` is {self.name!r}, the dataset of the champion's predictions. Set a different name for predictions "
                "of another version, or remove `name`."
            )
        return self

    @model_validator(mode="after")
    def _private(self) -> ScoreSpec:
        check_private(self.hash_columns, self.drop_columns, self.hash_conn_id)
        return self


class ScoreResult(Result):
    """Result of scoring.

    :param dataset: dataset of predictions; ``None`` if another shard writes it, or if there is no version to score with
        and ``on_missing`` is ``skip``
    :param scored_by: model version that computed the predictions; ``None`` if nothing was scored
    :param engine: library that ran the model, such as ``onnxruntime 1.31.1 (CPUExecutionProvider)`` or
        ``mlflow.xgboost (mlflow 3.17.2)``
    :param rows_per_second: number of rows per second, measured over reading, scoring and writing; for a shard, of the
        shard only
    :param written_to: table of ``write_to``, which contains the predictions; ``None`` without ``write_to``
    """

    dataset: DatasetRef | None
    scored_by: ModelVersionRef | None = None
    engine: str | None = None
    rows_per_second: float | None = None
    written_to: AnyWrittenTable | None = None
