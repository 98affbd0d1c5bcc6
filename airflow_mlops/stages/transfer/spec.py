"""Spec and result of the stage ``transfer``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef


class TransferSpec(Spec):
    """Parameters of a transfer, which copies a model version with its evidence to another registered model.

    :param model: name of the registered model to copy from
    :param version: number or alias of the version to copy
    :param target_conn_id: id of the Airflow connection to the MLflow server to copy to
    :param target_model: name of the registered model to copy to; by default ``model``
    """

    model: str
    version: int | str = "champion"
    target_conn_id: str = Field(min_length=1)
    target_model: str | None = None
    mlflow: MLflowTarget = MLflowTarget()


class TransferResult(Result):
    """The result of a transfer.

    :param transferred: whether this transfer wrote the ledger entry; ``False`` if the version was transferred before
    :param model: name of the registered model that received the version
    :param candidate: the version in the target registry, which EvaluateOperator takes as a candidate
    :param source: the version in the source registry
    :param registry: URL of the target registry, without credentials
    :param ledger_url: URL of the entry in the target's ledger
    """

    transferred: bool
    model: str
    candidate: ModelVersionRef
    source: ModelVersionRef
    registry: str
    ledger_url: str
