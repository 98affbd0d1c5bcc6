"""What an evaluation is asked for and answers."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import DatasetInput, MLflowTarget, ModelVersionRef
from airflow_mlops.registry.verdict import Verdict
from airflow_mlops.stages.evaluate.card_spec import Card


def _as_version(value: Any) -> Any:
    # The result of a TrainOperator stands for the version it registered.
    if isinstance(value, dict) and "candidate" in value:
        return value["candidate"]
    # MLflow knows the run of a version that someone else registered, if it has one.
    return {"run_id": "", **value} if isinstance(value, dict) else value


CandidateInput = Annotated[ModelVersionRef, BeforeValidator(_as_version)]


class EvaluateSpec(Spec):
    """Measure candidates and the present champion on the same held-out data.

    :param candidates: the model versions to judge; without ``run_id`` the registry is asked for it
    :param model: the registered model they must belong to; that of the candidates unless given
    :param dataset: the training set whose ``part`` was held out; the one the candidates were trained on unless given
    :param gates: what a candidate must pass, see :mod:`airflow_mlops.gates.rules`; unless given, to beat the baseline
        and, with 95% confidence, the champion
    :param metric: the metric by which one of the passing candidates wins; the task's main metric unless given
    :param allow_pyfunc: whether code that comes with a version may run, see :mod:`airflow_mlops.models.pyfunc.loading`
    :param card: what the candidates' cards say of purpose, limits and owner
    """

    candidates: list[CandidateInput] = Field(min_length=1)
    model: str | None = None
    dataset: DatasetInput | None = None
    part: str = "test"
    gates: list[dict[str, Any]] | None = None
    metric: str | None = None
    allow_pyfunc: StrictBool = False
    card: Card = Card()
    mlflow: MLflowTarget = MLflowTarget()


class EvaluateResult(Result):
    """A verdict.

    :param run_id: the MLflow run of the winner, or of the best candidate where none passed; empty if it has none
    :param reports: for each candidate that has a run, ``runs:/RUN/evaluation``: where MLflow keeps the verdict, the
        plots and the model card
    """

    verdict: Verdict
    run_id: str
    reports: list[str]
