"""Spec and result of the stage ``search``."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef, MLflowTarget
from airflow_mlops.models.trainers.spec import SearchTrainerSpec


class SearchSpec(Spec):
    """Try parameters of a trainer on the part ``train`` of a training set. The part ``test`` is not read.

    :param dataset: the training set
    :param model: name of the model, and by default also of the MLflow experiment
    :param seed: makes a search by one worker reproducible: same data, code, space and seed give the same trials
    :param worker: number of this worker among those that share the study
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
    """The best trial at the time when this worker ended.

    :param study: name of the study in its storage
    :param run_id: the MLflow run of the search, with a child run for each trial
    :param run_url: page of the run, if the tracking server has pages
    :param metric: the metric that was optimised
    :param greater_is_better: the direction of a user's own metric
    :param value: metric of the best trial; ``None`` if no trial was completed yet
    :param params: parameters of the best trial
    :param trainer: the trainer with these parameters, for ``TrainOperator(trainer=...)``
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
