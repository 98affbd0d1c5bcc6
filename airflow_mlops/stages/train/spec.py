"""Spec and result of the stage ``train``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, DatasetRef, MLflowTarget, ModelVersionRef
from airflow_mlops.metrics.catalog import check_import_path, find_metric
from airflow_mlops.models.trainers.spec import TrainerInput
from airflow_mlops.registry.names import SEARCH_TAG


class TrainSpec(Spec):
    """Fit one candidate to the part ``train`` of a training set and register it as a version of ``model``.

    :param dataset: a training set with the parts ``train`` and ``test``
    :param model: name of the registered model, and by default also of the MLflow experiment
    :param trainer: the trainer. Results of searches are replaced by the trainer with the best parameters
    :param metrics: import paths of the user's own metrics, which are measured and logged in addition to the built-in
        ones, see :mod:`airflow_mlops.metrics.custom`
    :param seed: makes a training reproducible: same data, code and seed give the same model
    :param tags: tags for the MLflow run
    """

    dataset: DatasetInput
    model: Name
    trainer: TrainerInput
    metrics: list[Annotated[str, AfterValidator(check_import_path)]] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0, lt=2**32)
    mlflow: MLflowTarget = MLflowTarget()
    tags: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _take_best(cls, fields: Any) -> Any:
        trainer = fields.get("trainer")
        results = trainer if isinstance(trainer, list) else [trainer]
        if not results or not all(isinstance(item, dict) and "study" in item for item in results):
            return fields
        best = best_result(results)
        return {
            **fields,
            "trainer": best["trainer"],
            "tags": {SEARCH_TAG: best["run_id"], **(fields.get("tags") or {})},
        }


class TrainResult(Result):
    """A candidate.

    :param candidate: the registered version
    :param run_id: the MLflow run of the training
    :param run_url: page of the run, if the tracking server has pages
    :param metrics: metrics on the part ``test``
    :param dataset: the training set
    :param trainer: name of the trainer
    """

    candidate: ModelVersionRef
    run_id: str
    run_url: str | None
    metrics: dict[str, float]
    dataset: DatasetRef
    trainer: str


def best_result(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best of the results of several searches, or of the workers of one search.

    :raises ValueError: no search completed a trial, or the searches optimised different metrics
    """
    found = [result for result in results if result["trainer"] is not None]
    if not found:
        raise ValueError("the search found no parameters, because no trial was completed")
    if len(metrics := sorted({result["metric"] for result in found})) > 1:
        raise ValueError(f"searches for {' and '.join(metrics)} cannot be compared: use the same metric in all of them")
    sign = find_metric(metrics[0], found[0].get("greater_is_better")).sign
    return max(found, key=lambda result: sign * result["value"])
