"""Spec and result of a check whether the champion was changed in MLflow."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef


class OutsideMovesSpec(Spec):
    """Parameters of a check whether the champion was changed in MLflow without this package.

    :param model: name of the registered model
    :param noticed_by: the observer that started the check, which the ledger records: ``RegistryTrigger`` or ``webhook``
    """

    model: str = Field(min_length=1)
    noticed_by: Literal["RegistryTrigger", "webhook"]
    mlflow: MLflowTarget = MLflowTarget()


class OutsideMovesResult(Result):
    """A change of the champion that was made in MLflow, as the ledger records it.

    :param champion: the champion after the change; ``None`` if the alias was deleted
    :param replaced: the champion before the change, according to the ledger; ``None`` if the model had no champion
    :param ledger_url: URL of the ledger entry
    :param seq: number of this entry
    """

    model: str
    champion: ModelVersionRef | None
    replaced: ModelVersionRef | None
    reason: str
    ledger_url: str
    seq: int
