"""Spec and result of the stage ``refit``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.registry.records.verdict import Verdict, VerdictInput


class RefitSpec(Spec):
    """Parameters of a refit, which fits the winner of ``verdict`` again on all rows of its training set.

    :param verdict: the verdict of an evaluation
    :param allow_code: whether the refit may run any code that the winner's MLflow run names. By default, it may run
        only estimators of well-known packages, see :mod:`airflow_mlops.models.trainers.known`
    """

    verdict: VerdictInput
    allow_code: bool = Field(default=False, strict=True)
    mlflow: MLflowTarget = MLflowTarget()


class RefitResult(Result):
    """The result of a refit.

    :param verdict: the verdict of the evaluation. If the refit passed its checks, the winner is the new version
    :param run_id: id of the MLflow run of the refit; empty if nothing was fitted
    :param run_url: URL of the run in the MLflow UI; ``None`` if nothing was fitted, or the tracking server has no UI
    """

    verdict: Verdict
    run_id: str = ""
    run_url: str | None = None

    def mlflow_runs(self) -> list[str]:
        return [self.run_id]
