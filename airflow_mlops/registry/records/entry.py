"""A decision about a model, and the entry of the ledger that contains it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from airflow_mlops import __version__
from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.registry.records.approval import ApprovalRecord
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.endpoint import Endpoint
from airflow_mlops.registry.records.outside_move import MOVED_OUTSIDE, OutsideMove
from airflow_mlops.registry.records.received import Received
from airflow_mlops.registry.records.verdict import CandidateVerdict, Refit

Kind = Literal[
    "promoted", "refused", "rolled_back", "requested", "acknowledged", "deployed", "undeployed",
    "canary_started", "canary_widened", "canary_held", "canary_withdrawn", "received",
    "moved_outside",
]  # fmt: skip


class Origin(Model):
    """The training set, code and environment of a model version, from the tags of its MLflow run.

    A field is empty if the run does not have the corresponding tag.

    :param version: number of the model version
    :param dataset: id of the training set
    :param package: version of ``airflow_mlops`` that trained the model version
    :param code: hash of the trainer's code
    :param environment: hash of the versions of Python and of the packages in the model's requirements
    """

    version: int
    dataset: str = ""
    package: str = ""
    code: str = ""
    environment: str = ""


class Decision(Model):
    """A decision about a model's champion, canary or endpoints, with the facts that it is based on.

    :param decision: kind of decision. ``requested``: monitoring or a user requested retraining; ``provenance`` contains
        the request. ``acknowledged``: a user acknowledged the verdict ``watch`` on ``window``. ``moved_outside``: a
        person moved or deleted the alias ``champion`` in MLflow; see ``outside``. ``deployed`` and ``undeployed``: see
        ``endpoint``. ``canary_...``: see ``canary``. ``received``: see ``received``. Entries of a newer release may
        have other kinds
    :param replaced: the champion before the decision; ``None`` if the model had no champion
    :param champion: the champion after the decision; ``None`` if the model has no champion
    :param candidates: metrics and gate results of each candidate
    :param dataset_name: name of the dataset on which the candidates were evaluated; ``None`` without an evaluation
    :param dataset_id: id of this dataset
    :param code: version of ``airflow_mlops``, and the tags of the new champion's MLflow run
    :param origins: training set, code and environment of each candidate, or of the champion after a rollback
    :param provenance: the Airflow task or the user that made the decision, and the requests for retraining that led to
        it
    :param reason: the reason for the decision
    :param approval: a person's answer to the request for approval; ``None`` if no approval was needed
    :param refit: how the winner was fitted again on all rows; ``None`` if it was not fitted again
    :param files: SHA-256 of each file of the new champion, by path, in ``promoted`` and ``moved_outside``. An entry
        ``moved_outside`` repeats the hashes of the version's last promotion. Empty if the version was never promoted,
        and in entries of earlier releases
    :param card: SHA-256 of the new champion's model card and verdict, by file name, in the same entries as ``files``
    :param window: the acknowledged window; ``None`` for other decisions
    :param endpoint: the endpoint that was deployed or removed; ``None`` for other decisions
    :param canary: the step of a canary, including the step ``promoted`` that ends it; ``None`` for other decisions
    :param received: the version that was copied from another registry, in ``received``, and in ``promoted`` if a person
        promoted this version with ``airflow mlops promote``; ``None`` for other decisions
    :param outside: how the change of the alias in MLflow was noticed; ``None`` for other decisions
    """

    decision: Kind | str
    replaced: ModelVersionRef | None
    champion: ModelVersionRef | None
    candidates: list[CandidateVerdict] = Field(default_factory=list)
    dataset_name: str | None = None
    dataset_id: str | None = None
    code: dict[str, str] = Field(default_factory=dict)
    origins: list[Origin] = Field(default_factory=list)
    provenance: Provenance = Provenance()
    reason: str
    approval: ApprovalRecord | None = None
    refit: Refit | None = None
    files: dict[str, str] = Field(default_factory=dict)
    card: dict[str, str] = Field(default_factory=dict)
    window: Window | None = None
    endpoint: Endpoint | None = None
    canary: CanaryStep | None = None
    received: Received | None = None
    outside: OutsideMove | None = None

    @classmethod
    def keeping(cls, champion: ModelVersionRef | None, decision: Kind | str, *, reason: str, **fields: Any) -> Decision:
        """Return a decision of this version of ``airflow_mlops`` that does not change the champion.

        :param champion: the champion; ``None`` if the model has no champion
        :param fields: further fields of the decision
        """
        return Decision(
            decision=decision,
            replaced=champion,
            champion=champion,
            code={"airflow_mlops": __version__},
            reason=reason,
            **fields,
        )

    @property
    def moves(self) -> bool:
        """Return whether the decision changes the champion, or records that the champion was changed."""
        return self.decision in ("promoted", "rolled_back", MOVED_OUTSIDE)


class Entry(Decision):
    """A numbered entry of the ledger, which contains a decision.

    :param seq: number of the entry, from 1 without gaps
    :param id: key of the task that made the decision (:attr:`StepContext.key`). A retry of the task finds the entry by
        this key
    :param model: name of the registered model
    :param time: time at which the entry was written, UTC
    :param previous: SHA-256 of the previous entry's file; empty for the first entry
    :param signature: the signature of the entry; ``None`` if the writer had no key
    :param sha256: SHA-256 of this entry's file; not stored in the file
    """

    # A newer release may have written fields that this one does not know.
    model_config = ConfigDict(extra="ignore", frozen=True)

    seq: int
    id: str
    model: str
    time: UtcDatetime
    previous: str
    signature: str | None = Field(default=None, exclude=True)
    sha256: str = Field(default="", exclude=True)

    def promotes(self, version: int) -> bool:
        """Return whether this entry made a version champion after an evaluation, and not by a rollback."""
        return self.decision == "promoted" and self.champion is not None and self.champion.version == version

    @property
    def contract_sha256(self) -> str | None:
        """Return the contract's SHA-256 if the entry promotes a version not trained by TrainOperator; else ``None``."""
        return next((item.contract_sha256 for item in self.candidates if item.candidate == self.champion), None)

    @property
    def requested(self) -> Request | None:
        """Return the request for retraining that this entry records or answers; ``None`` without a request."""
        return self.provenance.request(self.model)
