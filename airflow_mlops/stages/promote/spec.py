"""Spec and result of the stage ``promote``."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.registry.approval import ApprovalRecord
from airflow_mlops.registry.verdict import VerdictInput


class PromoteSpec(Spec):
    """Make the winner of ``verdict`` the champion.

    :param verdict: the verdict of an evaluation
    :param model: the registered model, which must be the model of the verdict; by default taken from the verdict
    :param needs_approval: whether a person must approve the promotion
    :param approval: the answer of a person; ``None`` if nobody was asked
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
    """The outcome of a promotion.

    :param promoted: whether this task has made the winner the champion
    :param winner: the winner of the verdict; ``None`` if no candidate passed
    :param champion: the champion after the decision
    :param replaced: the replaced champion; ``None`` if none was replaced
    :param reason: one sentence
    :param approval: who approved or rejected it, and when; ``None`` if nobody was asked
    :param ledger_url: the ledger entry; ``None`` if nothing was decided
    :param dataset_id: the dataset that the verdict is based on
    :param metrics: the new champion's metrics on the part ``test``
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
