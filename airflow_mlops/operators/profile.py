"""Profiling a dataset in shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.profile.spec import ProfileSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class ProfileOperator(StepOperator):
    """Profiles a dataset, or one shard of it; ``MonitorOperator(profiles=...)`` takes the output and reads no column again.

    Map over shards with ``ProfileOperator.partial(..., shards=8).expand(shard=list(range(8)))``.

    :param dataset: the rows: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param model: the registered model's name: its features and its score are profiled
    :param columns: what is profiled instead; without either, every column that can have a profile
    :param shard: which shard of the rows, from 0
    :param shards: how many shards there are
    :param on_missing: while there is no dataset, or the model has no champion, ``fail`` the task or ``skip`` it
    :param mlflow_conn_id: the Airflow connection of type ``mlflow``
    """

    step = "profile"
    spec = ProfileSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields, "dataset", "model", "columns", "shard", "shards", "mlflow_conn_id",
    )  # fmt: skip

    def __init__(
        self,
        *,
        dataset: Any,
        model: str | None = None,
        columns: Sequence[str] | None = None,
        shard: int | str = 0,
        shards: int | str = 1,
        on_missing: Literal["fail", "skip"] = "fail",
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.model = model
        self.columns = columns
        self.shard = shard
        self.shards = shards
        self.on_missing = on_missing
        self.mlflow_conn_id = mlflow_conn_id

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "model": self.model,
            "columns": None if self.columns is None else list(self.columns),
            "shard": self.shard,
            "shards": self.shards,
            "on_missing": self.on_missing,
            "mlflow": {"conn_id": self.mlflow_conn_id},
        }

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["profile"] is None:
            raise AirflowSkipException(result["summary"])
