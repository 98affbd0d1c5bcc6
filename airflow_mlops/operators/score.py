"""``ScoreOperator``, which scores a dataset with the champion or another version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.sharded import ShardedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_mlops.observability.samples import Sample


class ScoreOperator(ShardedOperator):
    """Scores a dataset with the champion, or with another version, and writes a dataset of predictions.

    Versions that TrainOperator registered are scored with their ONNX model, other versions with their MLflow flavour.

    With ``version`` or ``alias``, the task writes shadow predictions, which are not used for decisions. They are stored
    separately from the predictions of the champion.

    To score a large dataset in parallel, map the task over shards: ``ScoreOperator.partial(...,
    shards=8).expand(shard=list(range(8)))``. The predictions are one dataset, which the shard that finishes last
    writes. Only this shard returns the reference to the dataset, sends the events of the outlets, exports the metrics
    and writes the table of ``write_to``. ``.output`` of the mapped task can be passed on like the output of a single
    task.

    All shards use the version that the first shard finds, even if the champion changes in the meantime. A cleared shard
    uses this version again if another shard has succeeded. The version is looked up again in a new DAG run, and if no
    other shard has succeeded, for example after all shards were cleared.

    :param model: name of the registered model
    :param version: number of the version to score with; by default the champion
    :param alias: alias in MLflow of the version to score with, such as ``challenger``; by default the champion
    :param dataset: the dataset to score: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param part: the split part of the dataset to score, such as `test`; by default all split parts
    :param window: the time window of the predictions, such as ``2013-04``; by default the window of the dataset. Another
        window than that of the dataset is refused, except for a shorter one with all rows of ``part``
    :param name: name of the dataset of predictions; by default ``MODEL_predictions``, or ``MODEL_shadow_predictions``
        with ``version`` or ``alias``
    :param on_missing: what happens if the model has no champion, or no version with the alias: the task fails
        (``fail``) or is skipped (``skip``)
    :param allow_pyfunc: whether ``mlflow.pyfunc`` may load a version that TrainOperator did not train. Loading then
        runs code that is stored in the model. By default, only models that cannot run code are loaded. This parameter
        is not templated, so that only the author of the DAG can set it
    :param explain: whether to write by how much each feature moved each prediction: the columns ``attributions`` and
        ``attribution_base``. The task fails if the model has no exact attributions. XGBoost, LightGBM, CatBoost, and
        linear and logistic regressions of scikit-learn have them
    :param hash_columns: names of the columns that are stored as keyed hashes (HMAC-SHA256) in the predictions
    :param drop_columns: names of the columns that are not stored in the predictions
    :param hash_conn_id: id of the Airflow connection with the secret key for hashing in the password field; required
        with ``hash_columns``
    :param write_to: table into which the predictions are written as well: a table of a database, as ``{"conn_id": ...,
        "table": ...}``, where ``table`` may be ``SCHEMA.TABLE``; a Delta table, as ``{"delta": "s3://...", "conn_id":
        ...}``, where ``conn_id`` is optional; or an Iceberg table, as ``{"iceberg": "NAMESPACE.TABLE", "conn_id":
        ...}``. The rows of the same window, model, version and dataset name are replaced in one transaction
    :param shard: index of the shard to score, from 0; by default all rows are scored
    :param shards: number of shards into which the rows are divided
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :raises SpecError: both ``version`` and ``alias`` are set
    """

    step = "score"
    cacheable = True
    untemplated = StepOperator.untemplated | {"allow_pyfunc"}

    version: int | str | None
    alias: str | None

    def __init__(
        self,
        *,
        model: str,
        dataset: Any,
        version: int | str | None = None,
        alias: str | None = None,
        part: str | None = None,
        window: str | None = None,
        name: str | None = None,
        on_missing: Literal["fail", "skip"] = "fail",
        allow_pyfunc: bool = False,
        explain: bool = False,
        hash_columns: Sequence[str] = (),
        drop_columns: Sequence[str] = (),
        hash_conn_id: str | None = None,
        write_to: dict[str, str] | None = None,
        shard: int | str | None = None,
        shards: int | str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if version is not None and alias is not None:
            raise SpecError(f"Task {self.task_id!r} has both version= and alias=. Remove one of them.")
        self.assign_parameters(locals())

    def samples(self, result: dict[str, Any]) -> list[Sample]:
        from airflow_mlops.observability.samples import scored

        # Alerts use these metrics to notice that the scoring of a model has stopped. Shadow predictions must not hide
        # this.
        return scored(result) if self.version is None and self.alias is None else []

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None and result["scored_by"] is None:
            raise AirflowSkipException(result["summary"])
        if result["dataset"] is None:
            # Only the shard that writes the dataset sends events.
            self.outlets = []
            return
        self.describe_outlets(context, {"dataset": result["dataset"], "scored_by": result["scored_by"]})
