"""Makes an earlier champion the champion again, and writes down why."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops import __version__
from airflow_mlops.exceptions import RegistryError
from airflow_mlops.registry.aliases import carry_out, champion_before, former_champions, settle
from airflow_mlops.registry.client import connect
from airflow_mlops.registry.ledger import Decision, Entry, Ledger
from airflow_mlops.registry.models import champion, version
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.rollback import RollbackResult, RollbackSpec
from airflow_mlops.steps.context import StepContext


def run(spec: RollbackSpec, context: StepContext) -> RollbackResult:
    """Move the champion back.

    :raises RegistryError: there is no champion, none before it, or the version was never champion or is gone
    """
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, spec.model)

    def decide(entries: list[Entry]) -> Decision | None:
        settle(client, entries)
        now = champion(client, spec.model)
        if now is None:
            raise RegistryError(f"{spec.model} has no champion, so there is nothing to roll back.")
        target = _target(spec, entries, now)
        if target == now.version:
            return None
        return Decision(
            decision="rolled_back",
            replaced=now,
            champion=version(client, spec.model, target),
            code={"airflow_mlops": __version__},
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
    carry_out(client, ledger.entries())
    assert entry.champion is not None
    assert entry.replaced is not None
    return RollbackResult(
        rolled_back=True,
        model=spec.model,
        champion=entry.champion,
        replaced=entry.replaced,
        reason=entry.reason,
        ledger_url=ledger.url(entry),
        summary=f"Rolled {spec.model} back from v{entry.replaced.version} to v{entry.champion.version}: {entry.reason}",
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


def _listed(versions: Sequence[int]) -> str:
    if not versions:
        return "none is in the ledger"
    return f"the ledger has {', '.join(f'v{number}' for number in versions)}"
