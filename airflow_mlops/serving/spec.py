"""The settings of the server."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SecretStr, model_validator

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.references import MLflowTarget
from airflow_mlops.data.columns import check_private

CANARY_SHARE = 0.1


class ServeSpec(Model):
    """The settings of a server: its model, its address and its log.

    :param model: name of the registered model
    :param store: URL of the artifact store with the ledger. Predictions are written to this store
    :param mlflow: MLflow server whose alias ``champion`` the server follows
    :param version: number of the version to serve; by default the server follows the champion
    :param host: address on which the server listens
    :param port: port on which the server listens
    :param token: bearer token that requests must carry; by default, requests need no token
    :param predictions: name of the datasets of predictions; ``MODEL_predictions`` by default
    :param window: length of the time windows of the predictions
    :param log: whether predictions are logged
    :param shadow: number or alias of a version that scores the same rows in the shadow, see
        :mod:`airflow_mlops.serving.sending.shadow`
    :param canary: number or alias of a version that answers a share of the requests, see
        :mod:`airflow_mlops.serving.canary.answering`
    :param canary_share: share of the requests that the canary answers, 0 to 1, until CanaryOperator sets one; 0.1 by
        default
    :param canary_key: field of the rows whose value decides whether the canary answers; by default the id of the
        request
    :param hash_columns: columns to log as keyed hashes (pseudonyms) instead of their values
    :param drop_columns: columns that are not logged
    :param hash_conn_id: id of the Airflow connection with the secret key for the hashes as password; required with
        ``hash_columns``
    :param sample: share of the requests that are logged, 0 to 1. The id of a request decides, so requests with the same
        id are either all logged or all not logged
    :param feast_repo: folder of the Feast repository in whose online store features are looked up; by default, requests
        must contain all features
    :param spool: folder for logged predictions until they are in the artifact store; by default a folder for each model
        in the folder for temporary files
    :param max_body: largest body of a request, in bytes
    :param request_seconds: seconds in which a client must have sent the headers of a request, and then its body, and in
        which it must have read a response
    :param poll_seconds: seconds between two checks for a new champion
    :param load_seconds: seconds in which a version must be loaded and predict one row, after it was downloaded
    """

    model: Name
    store: str
    mlflow: MLflowTarget = MLflowTarget()
    version: int | None = Field(default=None, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    token: SecretStr | None = None
    predictions: Name | None = None
    window: Literal["hour", "day"] = "day"
    log: bool = True
    shadow: str | None = Field(default=None, min_length=1)
    canary: str | None = Field(default=None, min_length=1)
    canary_share: float | None = Field(default=None, ge=0, le=1)
    canary_key: str | None = Field(default=None, min_length=1)
    hash_columns: list[str] = Field(default_factory=list)
    drop_columns: list[str] = Field(default_factory=list)
    hash_conn_id: str | None = None
    sample: float = Field(default=1.0, ge=0, le=1)
    feast_repo: str | None = None
    spool: str | None = None
    max_body: int = Field(default=16_000_000, ge=1)
    request_seconds: float = Field(default=30.0, gt=0)
    poll_seconds: float = Field(default=2.0, gt=0)
    load_seconds: float = Field(default=120.0, gt=0)

    def for_processes(self) -> dict[str, Any]:
        """Return the settings for the server's other processes as JSON values, without the token and defaults."""
        return self.model_dump(mode="json", exclude_unset=True, exclude={"token"})

    @model_validator(mode="after")
    def _shadow_is_logged(self) -> ServeSpec:
        if self.shadow is not None and not self.log:
            raise ValueError(
                "`shadow` needs the prediction log, because its predictions are only logged. Remove `--no-log`."
            )
        return self

    @model_validator(mode="after")
    def _canary_is_set(self) -> ServeSpec:
        if self.canary is None and (self.canary_share is not None or self.canary_key is not None):
            raise ValueError(
                "`canary_share` or `canary_key` is set without `canary`. Set `canary` to a version or an alias."
            )
        return self

    @model_validator(mode="after")
    def _private(self) -> ServeSpec:
        check_private(self.hash_columns, self.drop_columns, self.hash_conn_id)
        return self
