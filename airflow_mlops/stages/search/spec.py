"""Spec and result of the stage ``search``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef, MLflowTarget
from airflow_mlops.models.trainers.spec import SearchTrainerSpec


class SearchSpec(Spec):
    """Parameters of a search on the split part ``train`` of a training set. The split part ``test`` is not read.

    :param dataset: the training set
    :param model: name of the registered model
    :param search: the trainer, the search space and the number of trials
    :param seed: random seed. The same data, code, space and seed give the same trials if the search has one worker
    :param mlflow: the connection to MLflow, and the experiment, which is by default named like the model
    :param worker: number of this worker among the workers that share the study
    :param tags: tags for the MLflow run
    """

    dataset: DatasetInput
    model: Name
    search: SearchTrainerSpec
    seed: int = Field(default=0, ge=0, lt=2**32)
    worker: int = Field(default=0, ge=0)
    mlflow: MLflowTarget = MLflowTarget()
    tags: dict[str, str] = Field(default_factory=dict)


class SearchResult(Result):
    """The result of a search, with the best trial at the time when this worker ended.

    :param study: name of the Optuna study
    :param run_id: id of the MLflow run of the search, which has a child run for each trial
    :param run_url: URL of the run's page; ``None`` if the tracking server has no web pages
    :param metric: name of the optimised metric
    :param greater_is_better: whether greater values of a custom metric are better; ``None`` for a built-in metric
    :param value: metric of the best trial; ``None`` if no trial was completed yet
    :param params: parameters of the best trial, by name
    :param trainer: the trainer with the best parameters, for ``TrainOperator(trainer=...)``
    :param trials: number of ``complete``, ``pruned`` and ``failed`` trials, over all workers
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
