"""What rolling back is asked for and answers."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef


class RollbackSpec(Spec):
    """Make an earlier champion the champion again.

    :param to_version: a version that was champion before; the one the present champion replaced unless given
    :param reason: why, for the ledger
    """

    model: str
    to_version: int | None = Field(default=None, ge=1)
    reason: str = Field(min_length=1)
    mlflow: MLflowTarget = MLflowTarget()


class RollbackResult(Result):
    """What became of the champion.

    :param rolled_back: ``False`` if that version was champion already
    :param champion: the champion now
    :param replaced: the champion before, if it was replaced
    :param ledger_url: the ledger entry, if something was decided
    """

    rolled_back: bool
    model: str
    champion: ModelVersionRef
    replaced: ModelVersionRef | None = None
    reason: str
    ledger_url: str | None = None
