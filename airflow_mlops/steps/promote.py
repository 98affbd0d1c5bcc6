"""Makes the winner of an evaluation the champion, and writes down what was decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops import __version__
from airflow_mlops.registry.aliases import carry_out, settle
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.ledger import Decision, Entry, Ledger
from airflow_mlops.registry.models import champion
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.promote import PromoteResult, PromoteSpec
from airflow_mlops.steps.context import StepContext

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: PromoteSpec, context: StepContext) -> PromoteResult:
    """Promote the verdict's winner, if there is one and the champion is still the one it was compared with."""
    verdict = spec.verdict
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, verdict.model)

    def decide(entries: list[Entry]) -> Decision | None:
        settle(client, entries)
        now = champion(client, verdict.model)
        winner = verdict.winner
        if winner is not None and now is not None and winner.version == now.version:
            return None
        refusal = _refusal(verdict.champion, now) if winner is not None else verdict.reason
        return Decision(
            decision="refused" if refusal else "promoted",
            replaced=now,
            champion=now if refusal else winner,
            candidates=verdict.candidates,
            dataset_name=verdict.dataset_name,
            dataset_id=verdict.dataset_id,
            code={"airflow_mlops": __version__, **(_code(client, winner) if winner else {})},
            provenance=context.provenance,
            reason=refusal or verdict.reason,
        )

    entry = ledger.record(context.key, decide)
    if entry is None:
        return _unchanged(spec)
    if entry.moves:
        carry_out(client, ledger.entries())
    return _result(spec, entry, ledger.url(entry))


def _refusal(evaluated: ModelVersionRef | None, now: ModelVersionRef | None) -> str:
    if (evaluated and evaluated.version) == (now and now.version):
        return ""
    was = f"v{evaluated.version}" if evaluated else "no champion"
    return (
        f"The candidates were compared with {was}, but {f'v{now.version}' if now else 'none'} is champion now: "
        "evaluate them again."
    )


def _code(client: MlflowClient, winner: ModelVersionRef) -> dict[str, str]:
    """The tags of the winner's run that say what it was made from."""
    with registry_errors(f"The MLflow run of {winner} cannot be read"):
        tags = client.get_run(winner.run_id).data.tags
    return {name: value for name, value in tags.items() if name.startswith("mlops.")}


def _unchanged(spec: PromoteSpec) -> PromoteResult:
    winner = spec.verdict.winner
    reason = f"{winner} is the champion already."
    return PromoteResult(
        promoted=False,
        model=spec.verdict.model,
        champion=winner,
        reason=reason,
        dataset_id=spec.verdict.dataset_id,
        summary=f"Nothing to promote: {reason}",
    )


def _result(spec: PromoteSpec, entry: Entry, ledger_url: str) -> PromoteResult:
    verdict = spec.verdict
    if entry.moves:
        assert verdict.winner is not None
        instead = f"in place of v{entry.replaced.version}" if entry.replaced else "as its first champion"
        summary = f"Promoted {verdict.winner} {instead}: {entry.reason}"
    else:
        summary = f"Nothing was promoted for {verdict.model}: {entry.reason}"
    return PromoteResult(
        promoted=entry.moves,
        model=verdict.model,
        champion=entry.champion,
        replaced=entry.replaced if entry.moves else None,
        reason=entry.reason,
        ledger_url=ledger_url,
        dataset_id=verdict.dataset_id,
        metrics=verdict.of(verdict.winner).metrics if entry.moves and verdict.winner else {},
        summary=summary,
    )
