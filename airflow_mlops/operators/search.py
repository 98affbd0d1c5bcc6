"""``SearchOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.models.trainers.spec import check_trainer
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.search.spec import SearchSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class SearchOperator(StepOperator):
    """Tries parameters of a trainer; its output is what ``TrainOperator(trainer=...)`` takes.

    Map over workers with ``SearchOperator.partial(...).expand(worker=[0, 1, 2, 3])``: they share one study. Map over
    searches with ``.expand(search=[...])``.

    :param dataset: a training set, of which the part ``train`` alone is read: the output of BuildTrainingSetOperator
    :param model: name of the model that it is for
    :param search: a :class:`~airflow_mlops.trainers.Search`, or a dict of the same fields
    :param worker: number of this worker, from 0: makes workers on one study choose differently
    :param experiment: the MLflow experiment; ``model`` unless given
    :param mlflow_conn_id: the Airflow connection to MLflow
    :param seed: makes a search by one worker repeatable; goes to the trainer as well
    :param tags: more tags for the MLflow run
    """

    step = "search"
    spec = SearchSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "dataset",
        "model",
        "search",
        "worker",
        "experiment",
        "mlflow_conn_id",
        "seed",
        "tags",
    )
    operator_extra_links = (MLflowRunLink(),)

    def __init__(
        self,
        *,
        dataset: Any,
        model: str,
        search: Any,
        worker: int | str = 0,
        experiment: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        seed: int | str = 0,
        tags: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.model = model
        self.search = search
        self.worker = worker
        self.experiment = experiment
        self.mlflow_conn_id = mlflow_conn_id
        self.seed = seed
        self.tags = tags
        if isinstance(search, dict) and "{{" not in str(search):
            check_trainer({**search, "kind": "search"}, f"The search of task {self.task_id!r}")

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "model": self.model,
            "search": self.search,
            "worker": self.worker,
            "seed": self.seed,
            "mlflow": {"conn_id": self.mlflow_conn_id, "experiment": self.experiment},
            "tags": self.tags or {},
        }
