"""``SearchOperator``, which searches for the best parameters of a trainer."""

from __future__ import annotations

from typing import Any

from airflow_mlops.links import MLflowRunLink
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.operators.rendering import is_template


class SearchOperator(StepOperator):
    """Searches for the best parameters of a trainer. ``TrainOperator(trainer=...)`` takes the output.

    To search in parallel, map the task over workers that share one Optuna study:
    ``SearchOperator.partial(...).expand(worker=[0, 1, 2, 3])``. To run several searches, map the task over searches:
    ``.expand(search=[...])``.

    :param dataset: the training set, which is the output of BuildTrainingSetOperator. Only the split part `train` is
        read
    :param model: name of the model for which parameters are searched
    :param search: a :class:`~airflow_mlops.trainers.Search`, or a dict with the same fields
    :param worker: index of this worker, from 0; workers with different indices sample different parameters
    :param experiment: name of the MLflow experiment; by default ``model``
    :param mlflow_conn_id: id of the Airflow connection to MLflow
    :param seed: random seed of the search and of the trainer. With only one worker, the result is reproducible
    :param tags: additional tags of the MLflow run
    :raises SpecError: the search is invalid
    """

    step = "search"
    cacheable = True
    structured = frozenset({"search"})
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
        if isinstance(search, dict) and not is_template(search):
            from airflow_mlops.models.trainers.spec import check_trainer

            check_trainer({**search, "kind": "search"}, f"The search of task {self.task_id!r}")
        self.assign_parameters(locals())
