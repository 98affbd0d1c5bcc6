"""``JoinLabelsOperator``, which joins labels to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk.exceptions import AirflowSkipException

from airflow_mlops.core.errors import SpecError
from airflow_mlops.operators.sharded import ShardedOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class JoinLabelsOperator(ShardedOperator):
    """Joins labels to the predictions that were logged before the labels were known.

    To join a large dataset in parallel, map the task over shards: ``JoinLabelsOperator.partial(...,
    shards=8).expand(shard=list(range(8)))``. The result is the same dataset as that of a single task. The shard that
    finishes last writes it. Only this shard returns the reference to the dataset and sends the events of the outlets.
    ``.output`` of the mapped task can be passed on like the output of a single task.

    :param model: name of the registered model; required without ``name``
    :param predictions: the dataset of predictions: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param labels: the dataset with the labels: the output of an upstream task, or ``{"name": ..., "window": ...}``
    :param on: names of the columns that identify a row in both datasets
    :param label: name of the label column in ``labels``, or a name and an expression over columns of ``labels``, such
        as ``{"name": "late", "expression": "arr_delay > 15"}``
    :param labels_timestamp: name of a column in ``labels`` with the time at which the label became known. If the values
        are times and not numbers, the label delay is measured. If a row has several labels, the label with the largest
        value in this column is used, unless ``labels_version`` is set
    :param labels_version: name of a column in ``labels`` with numbers or times that grow with each correction of a
        label. The label with the largest value is used. If neither this parameter nor ``labels_timestamp`` is set, several
        rows with the same label count as one label, and different labels for one row are an error
    :param sample_weight: name of a column in ``labels`` with the weight of each row (``sample_weight`` of
        TrainOperator), for weights that are known only with the label. The column is copied to the predictions, and
        replaces a column of the predictions with this name. By default, the weights come with the scored rows
    :param name: name of the joined dataset; by default ``MODEL_outcomes``
    :param hash_conn_id: id of the Airflow connection with the secret key for hashing in the password field. It is
        required if ScoreOperator hashed columns in ``on``. The same columns of ``labels`` are then hashed with this key
    :param on_missing: what happens if there are no predictions or no labels: the task fails (``fail``) or is skipped
        (``skip``). A dataset that an upstream task has written must exist in any case. If ``model`` is set and has a
        champion, a task without predictions or labels is skipped only if the artifact store has the model's ledger.
        Otherwise the task fails, because the file system of the store may not be mounted
    :param mlflow_conn_id: id of the Airflow connection to MLflow, which is used only with ``on_missing="skip"`` and
        ``model``
    :param shard: index of the shard of the predictions to join, from 0; by default all predictions are joined
    :param shards: number of shards into which the predictions are divided
    :raises SpecError: neither ``name`` nor ``model`` is set
    """

    step = "join_labels"
    cacheable = True

    model: str | None
    name: str | None
    on_missing: str

    def __init__(
        self,
        *,
        predictions: Any,
        labels: Any,
        on: Sequence[str],
        label: str | dict[str, str],
        model: str | None = None,
        labels_timestamp: str | None = None,
        labels_version: str | None = None,
        sample_weight: str | None = None,
        name: str | None = None,
        hash_conn_id: str | None = None,
        on_missing: Literal["fail", "skip"] = "fail",
        mlflow_conn_id: str = "mlflow_default",
        shard: int | str | None = None,
        shards: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if name is None and model is None:
            raise SpecError(
                f"Task {self.task_id!r} has no name for the joined dataset: set name=, or model= to use MODEL_outcomes."
            )
        self.assign_parameters(locals())

    def build_spec(self, context: Context) -> dict[str, Any]:
        fields = super().build_spec(context) | {"name": self.name or f"{self.model}_outcomes"}
        if self.on_missing != "skip" or self.model is None:
            fields["mlflow"] = None
        return fields

    def finish(self, result: dict[str, Any], context: Context) -> None:
        if result["dataset"] is None and result["shard"] is None:
            raise AirflowSkipException(result["summary"])
        if result["dataset"] is None:
            # Only the shard that writes the dataset sends events.
            self.outlets = []
            return
        self.describe_outlets(context, {"dataset": result["dataset"], "coverage": result["coverage"]})
