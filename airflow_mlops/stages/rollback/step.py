"""Roll back to a former champion, and record the reason in the ledger."""

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
from airflow_mlops.overview import index
from airflow_mlops.registry.aliases import (
    carry_out,
    champion_before,
    former_champions,
    is_unfinished,
    last_champion,
    last_move,
    settled_champion,
)
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.versions import version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.rollback.spec import RollbackResult, RollbackSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: RollbackSpec, context: StepContext) -> RollbackResult:
    """Roll back to a former champion, and record the rollback in the ledger.

    A model version contains the model, its threshold, its features and its preprocessing, so a rollback changes all of
    them together. If the Feast repository can be read, the rollback first checks that the features still exist.

    If a person deleted the alias in MLflow, the rollback by default restores the champion that the ledger names last.

    :raises RegistryError: the model never had a champion, or has no earlier champion, the requested version was never
        champion, the version was deleted, or Feast no longer has a feature of the version
    """
    context = context.for_call()
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)
    unchecked: dict[int, str] = {}

    def decide(entries: list[Entry]) -> Decision | None:
        now = settled_champion(client, ledger, entries)
        target = _target(spec, entries, now)
        if now is not None and target == now.version:
            return None
        former = version(client, spec.model, target)
        if target not in unchecked:
            unchecked[target] = _check_features(client, context.store, former)
        return Decision(
            decision="rolled_back",
            replaced=now,
            champion=former,
            code={"airflow_mlops": __version__},
            origins=[origin(client, former)],
            provenance=context.provenance,
            reason=spec.reason,
        )

    entry = ledger.record(context.key, decide)
    if entry is None:
        assert spec.to_version is not None
        now = version(client, spec.model, spec.to_version)
        return RollbackResult(
            rolled_back=False,
            model=spec.model,
            champion=now,
            reason=spec.reason,
            summary=f"{now} is already the champion.",
        )
    carry_out(client, ledger)
    index.update(context.store, spec.model, "decisions")
    assert entry.champion is not None
    before = f"v{entry.replaced.version}" if entry.replaced is not None else "no champion"
    summary = f"Rolled {spec.model} back from {before} to v{entry.champion.version}: {entry.reason}"
    if problem := unchecked.get(entry.champion.version):
        summary += f" The features in Feast were not checked, because {problem}"
    return RollbackResult(
        rolled_back=True,
        model=spec.model,
        champion=entry.champion,
        replaced=entry.replaced,
        reason=entry.reason,
        ledger_url=ledger.url(entry.seq),
        summary=summary,
    )


def _target(spec: RollbackSpec, entries: Sequence[Entry], now: ModelVersionRef | None) -> int:
    former = former_champions(entries)
    # A person may have deleted the alias.
    last = last_champion(entries) if now is None else None
    if now is None and last is None:
        raise RegistryError(
            f"Model {spec.model!r} has no champion, so it cannot be rolled back. Promote a version instead."
        )
    if spec.to_version is not None:
        if spec.to_version not in former:
            raise RegistryError(
                f"{spec.model} v{spec.to_version} was never champion, so a rollback to it is not possible "
                f"({_listed(former)}). Evaluate and promote it instead."
            )
        return spec.to_version
    if now is None:
        assert last is not None
        return last.version
    before = _before(entries, now)
    if before is None:
        others = [f"v{number}" for number in former if number != now.version]
        advice = f"Set `to_version` to a former champion ({', '.join(others)})" if others else "Promote another version"
        raise RegistryError(
            f"According to the ledger, {now} replaced no version when it became champion, so there is no default version to "
            f"roll back to. {advice}."
        )
    return before.version


def _before(entries: Sequence[Entry], now: ModelVersionRef) -> ModelVersionRef | None:
    """Return the version that was champion before ``now``; ``None`` if there was none.

    If a person has moved the alias to ``now`` since the last entry, the champion that the ledger names last is
    returned.
    """
    last = last_champion(entries)
    if last is not None and last.version != now.version:
        return last
    return champion_before(entries, now)


def interrupted(spec: RollbackSpec, store: ArtifactStore, connection: ConnectionResolver, user: str) -> str | None:
    """Return the step key of a crashed rollback that the same user started for the same reason.

    Airflow does not retry a command. If a user repeats the command after a crash, the command must complete the first
    rollback under this key. A new key would roll back a second time.

    :return: the key; ``None`` if the last change of the champion is not such a rollback, or if the rollback is complete
    :raises RegistryError: MLflow cannot be used, or the ledger was tampered with
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
    """Check that Feast still has the features that the version ``target`` was trained on.

    If the check is not possible, the rollback continues, because rollbacks also happen during outages.

    :return: the reason why the check was not possible; empty if the features were checked
    :raises RegistryError: Feast no longer has a feature. The error names all such features
    """
    try:
        contract = contracts.read(client, store, target).contract
    except (ModelFormatError, RegistryError, StoreError):
        return f"the model contract (features, label, ML task) of v{target.version} cannot be read."
    try:
        manifest = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)).manifest
    except MLOpsError as error:
        return str(error)
    refs, service = manifest.details.get("feature_refs") or [], manifest.details.get("feature_service")
    if not refs:
        return ""
    repo = manifest.source.get("feast_repo")
    if repo is None:
        return f"the manifest of training set {manifest.name!r} does not name the Feast repository."
    from airflow_mlops.data.feast import repository as feast_repo

    try:
        missing = feast_repo.missing_features(feast_repo.open_store(repo), service, refs)
    except FeatureStoreError as error:
        return str(error)
    if missing:
        within = f"feature service {service!r} of " if service else ""
        raise RegistryError(
            f"A rollback to {target} is not possible, because its features {', '.join(map(repr, missing))} have disappeared "
            f"from {within}the Feast repository {repo}. Restore these features and run `feast apply`, or set "
            "another `to_version`."
        )
    return ""


def _listed(versions: Sequence[int]) -> str:
    if not versions:
        return "the ledger contains no champions"
    return f"former champions: {', '.join(f'v{number}' for number in versions)}"
