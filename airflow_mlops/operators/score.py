"""Batch scoring with a model's champion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.observability.samples import Sample, scored
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.score.spec import ScoreSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class ScoreOperator(StepOperator):
    """Scores a dataset with the champion and writes a dataset of predictions: by its ONNX model, or by MLflow's flavour if
    TrainOperator did not make it.

    :param model: the registered model's name
    :param dataset: the rows to score: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param part: the part of the dataset to score; all parts unless given
    :param window: the time the predictions belong to, as in ``2013-04``; that of the dataset unless given
    :param name: the name of the predictions dataset; ``MODEL_predictions`` unless given
    :param on_missing: while the model has no champion, ``fail`` the task or ``skip`` it
    :param allow_pyfunc: load a champion that TrainOperator did not make by ``mlflow.pyfunc``, which runs code that comes
        with it; without it only one is loaded that can run none. No template, so that only the DAG's author says it
    :param hash_columns: columns of which the predictions keep a keyed hash (HMAC-SHA256) instead of the value
    :param drop_columns: columns that the predictions do not keep
    :param hash_conn_id: the Airflow connection whose password is the key of the hashes; needed with ``hash_columns``
    :param mlflow_conn_id: the Airflow connection of type ``mlflow``
    """

    step = "score"
    spec = ScoreSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields, "model", "dataset", "part", "window", "name", "hash_columns", "drop_columns",
        "hash_conn_id", "mlflow_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        model: str,
        dataset: Any,
        part: str | None = None,
        window: str | None = None,
        name: str | None = None,
        on_missing: Literal["fail", "skip"] = "fail",
        allow_pyfunc: bool = False,
        hash_columns: Sequence[str] = (),
        drop_columns: Sequence[str] = (),
        hash_conn_id: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.dataset = dataset
        self.part = part
        self.window = window
        self.name = name
        self.on_missing = on_missing
        self.allow_pyfunc = allow_pyfunc
        self.hash_columns = hash_columns
        self.drop_columns = drop_columns
        self.hash_conn_id = hash_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "model": self.model,
            "dataset": self.dataset,
            "part": self.part,
            "window": self.window,
            "name": self.name,
            "on_missing": self.on_missing,
            "allow_pyfunc": self.allow_pyfunc,
            "hash_columns": self.hash_columns,
            "drop_columns": self.drop_columns,
            "hash_conn_id": self.hash_conn_id,
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        return scored(result)

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None:
            raise AirflowSkipException(result["summary"])
        self.describe_outlets(context, {"dataset": result["dataset"], "scored_by": result["scored_by"]})
