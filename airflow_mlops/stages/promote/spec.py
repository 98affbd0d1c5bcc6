"""Spec and result of the stage ``promote``."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.references import MLflowTarget, ModelVersionRef
from airflow_mlops.registry.records.approval import ApprovalRecord
from airflow_mlops.registry.records.verdict import VerdictInput


class PromoteSpec(Spec):
    """Parameters of a promotion, which makes the winner of ``verdict`` the champion.

    :param verdict: the verdict of an evaluation
    :param model: name of the registered model; by default the model of the verdict. Any other name is refused
    :param needs_approval: whether a person must approve the promotion
    :param approval: a person's answer to the request for approval; ``None`` if approval was not requested
    """

    verdict: VerdictInput
    model: str | None = None
    needs_approval: bool = False
    approval: ApprovalRecord | None = None
    mlflow: MLflowTarget = MLflowTarget()

    @model_validator(mode="after")
    def _same_model(self) -> PromoteSpec:
        if self.model is not None and self.model != self.verdict.model:
            raise ValueError(
                f"the verdict is for the model {self.verdict.model!r}, but `model` is {self.model!r}; use the verdict of an "
                "evaluation of this model"
            )
        return self


class PromoteResult(Result):
    """The result of a promotion.

    :param promoted: whether this promotion made the winner the champion
    :param winner: the winner of the verdict; ``None`` if no candidate passed every gate
    :param champion: the champion after the decision; ``None`` if the model has no champion
    :param replaced: the replaced champion; ``None`` if no champion was replaced
    :param reason: the reason for the decision
    :param approval: a person's answer to the request for approval; ``None`` if approval was not requested
    :param ledger_url: URL of the ledger entry; ``None`` if the winner was already the champion
    :param dataset_id: id of the dataset that the verdict is based on
    :param metrics: metrics of the new champion on the held-out rows, by name; empty if nothing was promoted
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
