"""The record of a model version that was received from another registered model."""

from __future__ import annotations

from pydantic import Field

from airflow_mlops.core.base import Model
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.records.verdict import CandidateVerdict

# Tags of a received version and of its MLflow run: where the version comes from.
REGISTRY_TAG, MODEL_TAG = "mlops.source_registry", "mlops.source_model"
VERSION_TAG, RUN_TAG = "mlops.source_version", "mlops.source_run"


class Received(Model):
    """A model version that TransferModelOperator copied from another registered model, with its evaluation.

    :param version: the version in this registry
    :param source: the version in the registry that it was copied from
    :param registry: URL of that registry, without credentials
    :param ledger_url: URL of the entry that promoted ``source`` in the ledger of its registry; ``None`` if it was
        evaluated but not promoted there
    :param ledger_sha256: SHA-256 of this entry's file; ``None`` without an entry
    :param evaluation: metrics and gate results of the version in its registry. ``candidate`` is the version that was
        measured there: ``source``, or the version from which it was fitted again
    :param contract_sha256: SHA-256 of the contract that EvaluateOperator wrote for a version that TrainOperator did not
        train; ``None`` for other versions
    :param files: SHA-256 of each file of the version, by path
    :param card: SHA-256 of the model card and of the verdict, by name of the file
    """

    version: ModelVersionRef
    source: ModelVersionRef
    registry: str
    ledger_url: str | None = None
    ledger_sha256: str | None = None
    evaluation: CandidateVerdict
    contract_sha256: str | None = None
    files: dict[str, str]
    card: dict[str, str] = Field(default_factory=dict)
