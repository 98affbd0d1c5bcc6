"""Spec and result of the stage ``rollback``."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef


class RollbackSpec(Spec):
    """Parameters of a rollback, which makes an earlier champion the champion again.

    :param to_version: version number of a former champion; by default the version that the current champion replaced
    :param reason: the reason for the rollback, which is recorded in the ledger
    """

    model: str
    to_version: int | None = Field(default=None, ge=1)
    reason: str = Field(min_length=1)
    mlflow: MLflowTarget = MLflowTarget()


class RollbackResult(Result):
    """The result of a rollback.

    :param rolled_back: whether the champion changed; ``False`` if the requested version was already the champion
    :param champion: the champion after the rollback
    :param replaced: the replaced champion; ``None`` if no champion was replaced
    :param ledger_url: URL of the ledger entry; ``None`` if the champion did not change
    """

    rolled_back: bool
    model: str
    champion: ModelVersionRef
    replaced: ModelVersionRef | None = None
    reason: str
    ledger_url: str | None = None
