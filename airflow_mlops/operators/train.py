"""``TrainOperator``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.hooks.mlflow import MLflowHook
from airflow_mlops.links import MLflowRunLink
from airflow_mlops.models.trainers.spec import check_trainer
from airflow_mlops.notifications import Event
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.train.spec import TrainSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class TrainOperator(StepOperator):
    """Fits one candidate to a training set, logs all about it to MLflow and registers it as a version of ``model``.

    Map over candidates with ``TrainOperator.partial(...).expand(trainer=[...])``.

    :param dataset: a training set with the parts ``train`` and ``test``: the output of BuildTrainingSetOperator
    :param model: name of the registered model
    :param trainer: a :class:`~airflow_mlops.trainers.SklearnTrainer`, a
        :class:`~airflow_mlops.trainers.TorchTrainer`, a :class:`~airflow_mlops.trainers.FunctionTrainer`, a
        :class:`~airflow_mlops.trainers.Search` of one of them, a dict of the same fields, or the output of a
        SearchOperator, which stands for the best that it found
    :param experiment: the MLflow experiment; ``model`` unless given
    :param mlflow_conn_id: the Airflow connection to MLflow
    :param seed: makes the training repeatable; goes to the estimator's ``random_state`` or the function's ``seed``
    :param tags: more tags for the MLflow run
    """

    step = "train"
    spec = TrainSpec
    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "dataset",
        "model",
        "trainer",
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
        trainer: Any,
        experiment: str | None = None,
        mlflow_conn_id: str = "mlflow_default",
        seed: int | str = 0,
        tags: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.model = model
        self.trainer = trainer
        self.experiment = experiment
        self.mlflow_conn_id = mlflow_conn_id
        self.seed = seed
        self.tags = tags
        if isinstance(trainer, dict) and "{{" not in str(trainer):
            check_trainer(trainer, f"The trainer of task {self.task_id!r}")

    def finish(self, result: dict[str, Any], context: Context) -> None:
        super().finish(result, context)
        place = self.place()
        if digest := place.get("image_digest"):
            # A pod does not know the digest of its own image.
            tags = {"mlops.image": place["image"], "mlops.image_digest": digest}
            MLflowHook(self.mlflow_conn_id).tag_run(result["run_id"], tags)

    def event(self, result: dict[str, Any], context: Context) -> Event:
        candidate = result["candidate"]
        urls = self.urls(context, result["run_id"])
        return Event("registered", candidate["model"], result["summary"], candidate["version"], urls=urls)

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "model": self.model,
            # A mapped search gives the results of its workers.
            "trainer": self.trainer if isinstance(self.trainer, dict) else list(self.trainer),
            "seed": self.seed,
            "mlflow": {"conn_id": self.mlflow_conn_id, "experiment": self.experiment},
            "tags": self.tags or {},
        }
