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
    :param predictions: name of the datasets of predictions; by default ``MODEL_predictions``
    :param window: length of the time windows of the predictions
    :param log_predictions: whether the endpoint logs its predictions
    :param hash_columns: columns to log as keyed hashes (pseudonyms) instead of their values
    :param drop_columns: columns that are not logged
    :param hash_conn_id: id of the Airflow connection with the secret key for the hashes as password; required with
        ``hash_columns``
    :param sample: share of the requests that are logged, 0 to 1; by default 1
    :param shadow: number or alias of a version that scores the same rows. Its predictions are logged but not returned
    :param canary: number or alias of a version that answers a share of the requests
    :param canary_share: share of the requests that the canary answers, 0 to 1, until CanaryOperator sets another share;
        by default 0.1
    :param canary_key: field of the rows whose value decides whether the canary answers; by default the id of the
        request
    :param feast_repo: folder of the Feast repository in whose online store the servers look up features
    """

    model: Name
    version: int | None = Field(default=None, ge=1)
    predictions: Name | None = None
    window: Literal["hour", "day"] = "day"
    log_predictions: bool = True
    hash_columns: list[str] = Field(default_factory=list)
    drop_columns: list[str] = Field(default_factory=list)
    hash_conn_id: str | None = None
    sample: float | None = Field(default=None, ge=0, le=1)
    shadow: str | None = Field(default=None, min_length=1)
    canary: str | None = Field(default=None, min_length=1)
    canary_share: float | None = Field(default=None, ge=0, le=1)
    canary_key: str | None = Field(default=None, min_length=1)
    feast_repo: str | None = None
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
    """Rows and the scores that a version predicts for them. An endpoint is verified with them.

    :param rows: the input example that is stored with the version, as JSON objects
    :param scores: score of each row; ``None`` for NaN and infinite scores
    """

    rows: list[dict[str, Any]]
    scores: list[float | None]
