"""``ProfileOperator``, which profiles a dataset or its shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ProfileOperator(StepOperator):
    """Computes the column profiles of a dataset, or of one shard of the dataset.

    ``MonitorOperator(profiles=...)`` takes the output and does not read the profiled columns again. To profile shards
    in parallel, map the task: ``ProfileOperator.partial(..., shards=8).expand(shard=list(range(8)))``.

    :param dataset: the dataset to profile: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param model: name of a registered model; the features and the score of this model are profiled
    :param columns: names of the columns to profile, instead of ``model``. If neither parameter is set, all columns with
        a supported type are profiled
    :param shard: index of the shard, from 0
    :param shards: number of shards
    :param on_missing: what happens if there is no dataset or the model has no champion: the task fails (``fail``) or is
        skipped (``skip``). A dataset that an upstream task has written must exist in any case. If ``model`` has a
        champion, a task without a dataset is skipped only if the artifact store has the model's ledger. Otherwise the
        task fails, because the file system of the store may not be mounted
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    """

    step = "profile"
    cacheable = True

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
        self.assign_parameters(locals())

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["profile"] is None:
            raise AirflowSkipException(result["summary"])
