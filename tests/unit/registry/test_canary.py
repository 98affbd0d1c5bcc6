"""A canary that was deleted in MLflow after its rollout does not prevent later canaries."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mlflow.exceptions import RESOURCE_DOES_NOT_EXIST, MlflowException

from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry import canary
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.canary import CanaryStep
from airflow_mlops.registry.records.entry import Decision


class Registry:
    """The calls of MLflow's client that concern a canary. Versions that are not in ``tags`` were deleted."""

    def __init__(self, *versions: str) -> None:
        self.tags: dict[str, dict[str, str]] = {version: {} for version in versions}
        self.alias: str | None = None

    def _found(self, version: str | None) -> SimpleNamespace:
        if version not in self.tags:
            raise MlflowException("not found", RESOURCE_DOES_NOT_EXIST)
        return SimpleNamespace(name="m", version=version, run_id="", tags=self.tags[version])

    def get_model_version(self, model: str, version: str) -> SimpleNamespace:
        return self._found(version)

    def get_model_version_by_alias(self, model: str, alias: str) -> SimpleNamespace:
        return self._found(self.alias)

    def set_model_version_tag(self, model: str, version: str, name: str, value: str) -> None:
        self._found(version).tags[name] = value

    def set_registered_model_alias(self, model: str, alias: str, version: str) -> None:
        self.alias = str(self._found(version).version)


def step(ledger: Ledger, kind: str, version: int, share: float) -> None:
    ref = ModelVersionRef(model="m", version=version, run_id="")
    decision = Decision(
        decision=kind, replaced=None, champion=None, reason="why", canary=CanaryStep(version=ref, share=share)
    )
    ledger.record(f"{kind}-{version}", lambda entries: decision)


def test_a_deleted_canary_does_not_prevent_the_next_one(tmp_path):
    ledger, client = Ledger(ArtifactStore(tmp_path.as_uri()), "m"), Registry("5")
    step(ledger, canary.STARTED, 3, 0.1)
    with pytest.raises(RegistryError, match="m v3 cannot be set to the share 0.1: not found"):
        canary.carry_out(client, ledger)
    step(ledger, canary.WITHDRAWN, 3, 0.0)
    canary.carry_out(client, ledger)
    step(ledger, canary.STARTED, 5, 0.2)
    canary.carry_out(client, ledger)
    assert (client.alias, client.tags) == ("5", {"5": {canary.SHARE_TAG: "0.2"}})
