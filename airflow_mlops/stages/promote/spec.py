"""What promoting is asked for and answers."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.registry.approval import ApprovalRecord
from airflow_mlops.registry.verdict import VerdictInput


class PromoteSpec(Spec):
    """Make the winner of ``verdict`` the champion.

    :param verdict: what an evaluation found
    :param model: the registered model, which must be the verdict's; the verdict's unless given
    :param needs_approval: whether people have to agree
    :param approval: what people said about it; ``None`` where nobody was asked
    """

    verdict: VerdictInput
    model: str | None = None
    needs_approval: bool = False
    approval: ApprovalRecord | None = None
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _same_model(self) -> PromoteSpec:
        if self.model is not None and self.model != self.verdict.model:
            raise ValueError(f"the verdict is about {self.verdict.model!r}, not about {self.model!r}")
        return self


class PromoteResult(Result):
    """What became of the champion.

    :param promoted: whether the winner is champion because of this task
    :param winner: the version that was to be promoted, if there was one
    :param champion: the champion now
    :param replaced: the champion before, if it was replaced
    :param reason: one sentence that says why
    :param approval: who approved or rejected it, and when; ``None`` where nobody was asked
    :param ledger_url: the ledger entry, if something was decided
    :param dataset_id: the dataset the decision rests on
    :param metrics: the new champion's metrics on the held-out data
    """

    promoted: bool
    model: str
    winner: ModelVersionRef | None
    champion: ModelVersionRef | None
    replaced: ModelVersionRef | None = None
    reason: str
    approval: ApprovalRecord | None = None
    ledger_url: str | None = None
    dataset_id: str
    metrics: dict[str, float] = Field(default_factory=dict)
