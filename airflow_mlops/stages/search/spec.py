"""Spec and result of the stage ``search``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef, MLflowTarget
from airflow_mlops.models.trainers.spec import SearchTrainerSpec


class SearchSpec(Spec):
    """Parameters of a hyperparameter search, which trains and measures models on the split part ``train``.

    The split part ``test`` is not read.

    :param dataset: the training set
    :param model: name of the registered model
    :param search: the trainer, the search space and the number of trials
    :param seed: random seed. A search with one worker repeats the same trials for the same data, code, space and seed
    :param mlflow: the connection to MLflow, and the name of the experiment; by default the name of the model
    :param worker: number of this worker, from 0, among the workers that share the Optuna study
    :param tags: tags for the MLflow run of the search
    """

    dataset: DatasetInput
    model: Name
    search: SearchTrainerSpec
    seed: int = Field(default=0, ge=0, lt=2**32)
    worker: int = Field(default=0, ge=0)
    mlflow: MLflowTarget = MLflowTarget()
    tags: dict[str, str] = Field(default_factory=dict)


class SearchResult(Result):
    """Result of a hyperparameter search. The best trial is the best among all workers when this worker ended.

    :param study: name of the Optuna study
    :param run_id: id of the MLflow run of the search, which has a child run for each trial
    :param run_url: URL of the run in the MLflow UI; ``None`` if the tracking server has no UI
    :param metric: name of the optimised metric
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for a built-in metric
    :param value: metric of the best trial; ``None`` if no trial is complete yet
    :param params: parameters of the best trial, by name; empty if no trial is complete yet
    :param trainer: the trainer with the parameters of the best trial, for ``TrainOperator(trainer=...)``; ``None`` if
        no trial is complete yet
    :param trials: number of trials of all workers, by state (``complete``, ``pruned`` or ``failed``)
    :param dataset: the training set
    """

    study: str
    run_id: str
    run_url: str | None
    metric: str
    greater_is_better: bool | None = None
    value: float | None
    params: dict[str, Any]
    trainer: dict[str, Any] | None
    trials: dict[str, int]
    dataset: DatasetRef

    def mlflow_runs(self) -> list[str]:
        return [self.run_id]
