"""Makes an earlier champion the champion again, and writes down why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.connections import ConnectionResolver
from airflow_mlops.core.errors import FeatureStoreError, MLOpsError, ModelFormatError, RegistryError, StoreError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models import contracts
from airflow_mlops.registry.aliases import (
    carry_out,
    champion_before,
    former_champions,
    is_unfinished,
    last_move,
    settled_champion,
)
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Decision, Entry, Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.versions import version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.rollback.spec import RollbackResult, RollbackSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: RollbackSpec, context: StepContext) -> RollbackResult:
    """Move the champion back: model, threshold, features and preprocessing are one version, and go back together.

    Where it can be asked, Feast is asked first whether the features still exist that the version needs.

    :raises RegistryError: there is no champion, none before it, the version was never champion or is gone, or its
        features are
    """
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)
    unchecked: dict[int, str] = {}

    def decide(entries: list[Entry]) -> Decision | None:
        now = settled_champion(client, ledger, entries)
        if now is None:
            raise RegistryError(f"{spec.model} has no champion, so there is nothing to roll back.")
        target = _target(spec, entries, now)
        if target == now.version:
            return None
        again = version(client, spec.model, target)
        if target not in unchecked:
            unchecked[target] = _check_features(client, context.store, again)
        return Decision(
            decision="rolled_back",
            replaced=now,
            champion=again,
            code={"airflow_mlops": __version__},
            origins=[origin(client, again)],
            provenance=context.provenance,
            reason=spec.reason,
        )

    entry = ledger.record(context.key, decide)
    if entry is None:
        assert spec.to_version is not None
        now = version(client, spec.model, spec.to_version)
        return RollbackResult(
            rolled_back=False, model=spec.model, champion=now, reason=spec.reason, summary=f"{now} is champion already."
        )
    carry_out(client, ledger)
    assert entry.champion is not None
    assert entry.replaced is not None
    summary = f"Rolled {spec.model} back from v{entry.replaced.version} to v{entry.champion.version}: {entry.reason}"
    if problem := unchecked.get(entry.champion.version):
        summary += f" Whether Feast still has its features was not checked: {problem}"
    return RollbackResult(
        rolled_back=True,
        model=spec.model,
        champion=entry.champion,
        replaced=entry.replaced,
        reason=entry.reason,
        ledger_url=ledger.url(entry.seq),
        summary=summary,
    )


def _target(spec: RollbackSpec, entries: Sequence[Entry], now: ModelVersionRef) -> int:
    known = former_champions(entries)
    if spec.to_version is not None:
        if spec.to_version not in known:
            raise RegistryError(
                f"{spec.model} v{spec.to_version} was never champion, so it cannot be rolled back to: "
                f"{_listed(known)}. Evaluate and promote it instead."
            )
        return spec.to_version
    before = champion_before(entries, now)
    if before is None:
        raise RegistryError(
            f"The ledger knows no champion before {now}: {_listed(known)}. Give to_version, or promote another version."
        )
    return before.version


def interrupted(spec: RollbackSpec, store: ArtifactStore, connection: ConnectionResolver, user: str) -> str | None:
    """The key of the same rollback by the same user, if that one died before the champion had moved.

    A command has no task that Airflow retries: asked again, it goes on, instead of going back once more.

    :raises RegistryError: MLflow cannot be used, or the ledger is broken
    """
    move = last_move(Ledger(store, spec.model).entries())
    if move is None or (move.decision, move.provenance, move.reason) != (
        "rolled_back",
        Provenance(user=user),
        spec.reason,
    ):
        return None
    return move.id if is_unfinished(connect(spec.mlflow, connection), move) else None


def _check_features(client: MlflowClient, store: ArtifactStore, target: ModelVersionRef) -> str:
    """Ask Feast for the features that ``target`` was trained on.

    :return: why it could not be asked, empty if it was: a rollback is for bad hours, when other things are down too
    :raises RegistryError: naming the features that are gone
    """
    try:
        known = contracts.known(client, store, target).contract
    except (ModelFormatError, RegistryError, StoreError):
        return f"the contract of v{target.version} cannot be read."
    try:
        manifest = open_dataset(store, DatasetRef(name=known.dataset_name, id=known.dataset_id, rows=0)).manifest
    except MLOpsError as error:
        return str(error)
    refs, service = manifest.details.get("feature_refs") or [], manifest.details.get("feature_service")
    if not refs:
        return ""
    repo = manifest.source.get("feast_repo")
    if repo is None:
        return f"its training set {manifest.name} does not say where the Feast repository lies."
    from airflow_mlops.data.feast import repository as feast_repo

    try:
        missing = feast_repo.missing_features(feast_repo.open_store(repo), service, refs)
    except FeatureStoreError as error:
        return str(error)
    if missing:
        within = f"feature service {service!r} of " if service else ""
        raise RegistryError(
            f"{target} cannot be champion again: it needs {', '.join(missing)}, which {within}the Feast repository "
            f"{repo} no longer has. Put back what is missing and apply the repository, or give another to_version."
        )
    return ""


def _listed(versions: Sequence[int]) -> str:
    if not versions:
        return "none is in the ledger"
    return f"the ledger has {', '.join(f'v{number}' for number in versions)}"
