"""Spec and result of the stage ``deploy``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef


class DeploySpec(Spec):
    """Parameters of a deployment.

    :param model: name of the registered model
    :param version: number of the version to serve; by default the endpoint follows the champion
    :param predictions: name of the datasets of predictions; ``MODEL_predictions`` by default
    :param window: length of the time windows of the predictions
    :param log_predictions: whether the endpoint logs its predictions
    """

    model: Name
    version: int | None = Field(default=None, ge=1)
    predictions: Name | None = None
    window: Literal["hour", "day"] = "day"
    log_predictions: bool = True
    mlflow: MLflowTarget = MLflowTarget()


class DeployResult(Result):
    """The version for an endpoint.

    :param version: the version that the endpoint must answer with: the requested one, or the champion
    :param follows: whether the endpoint follows the champion
    :param check_key: key of the file in the artifact store with the :class:`Check` of the version
    """

    model: str
    version: ModelVersionRef
    follows: bool
    check_key: str


class Check(Model):
    """Rows, and the scores that a version gives them.

    :param rows: the input example that is stored with the version, as JSON objects
    :param scores: score of each row; ``None`` for NaN
    """

    rows: list[dict[str, Any]]
    scores: list[float | None]
