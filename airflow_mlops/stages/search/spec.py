"""What a search for parameters is asked for and answers."""

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
    :param model: name of the model that it is for, and of the experiment unless ``mlflow`` names one
    :param seed: makes a search by one worker repeatable: same data, code, space and seed, same trials
    :param worker: which of several workers on one study this is
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
    """The best that was found by the time this worker ended.

    :param study: the study's name in its storage
    :param run_id: the MLflow run of the search, which has one below it for each trial
    :param run_url: the run's page, if the tracking server has pages
    :param metric: what was compared
    :param value: what the best trial measured; ``None`` where other workers had completed none yet
    :param params: what the best trial chose
    :param trainer: the trainer with these parameters, as ``TrainOperator(trainer=...)`` takes it
    :param trials: how many trials are ``complete``, ``pruned`` and ``failed``, over all workers
    :param dataset: the training set
    """

    study: str
    run_id: str
    run_url: str | None
    metric: str
    value: float | None
    params: dict[str, Any]
    trainer: dict[str, Any] | None
    trials: dict[str, int]
    dataset: DatasetRef
