"""Spec and result of an evaluation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, model_validator

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, MLflowTarget, ModelVersionRef
from airflow_mlops.metrics.catalog import check_metric
from airflow_mlops.registry.verdict import Verdict
from airflow_mlops.stages.evaluate.card_spec import Card


def _as_version(value: Any) -> Any:
    # The result of a TrainOperator refers to the version that it registered.
    if isinstance(value, dict) and "candidate" in value:
        return value["candidate"]
    # The run of a version that was registered elsewhere is looked up in MLflow.
    return {"run_id": "", **value} if isinstance(value, dict) else value


CandidateInput = Annotated[ModelVersionRef, BeforeValidator(_as_version)]


class EvaluateSpec(Spec):
    """Measure candidates and the present champion on the same held-out data.

    :param candidates: the model versions to evaluate; a missing ``run_id`` is looked up in the registry
    :param model: the registered model that they must belong to; by default that of the candidates
    :param dataset: the training set whose ``part`` was held out; by default the one the candidates were trained on
    :param gates: what a candidate must pass, see :mod:`airflow_mlops.gates.rules`; by default better than the baseline
        and, with 95% confidence, better than the champion
    :param metric: the metric that ranks the candidates that pass; the task's main metric by default. A user's own metric
        is named by import path, see :mod:`airflow_mlops.metrics.custom`
    :param greater_is_better: the direction of a user's own metric
    :param allow_pyfunc: whether code that is stored with a version may run, see :mod:`airflow_mlops.models.pyfunc.loading`
    :param card: purpose, limits and owner for the model cards
    """

    candidates: list[CandidateInput] = Field(min_length=1)
    model: str | None = None
    dataset: DatasetInput | None = None
    part: str = "test"
    gates: list[dict[str, Any]] | None = None
    metric: str | None = None
    greater_is_better: StrictBool | None = None
    allow_pyfunc: StrictBool = False
    card: Card = Card()
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _known_metric(self) -> EvaluateSpec:
        check_metric(self.metric, self.greater_is_better)
        return self


class EvaluateResult(Result):
    """A verdict.

    :param run_id: the MLflow run of the winner, or of the best candidate if none passed; empty if it has none
    :param reports: ``runs:/RUN/evaluation`` of each candidate with a run: the MLflow artifacts with verdict, plots and
        model card
    """

    verdict: Verdict
    run_id: str
    reports: list[str]
