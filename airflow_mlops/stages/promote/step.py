"""Make the winner of an evaluation the champion, and record the decision in the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops import __version__
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.datasets.catalog import read_manifest
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import index
from airflow_mlops.registry.aliases import carry_out, settled_champion
from airflow_mlops.registry.client import connect, registry_errors
from airflow_mlops.registry.integrity import card_hashes
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.origins import origin
from airflow_mlops.registry.records.entry import Decision, Entry
from airflow_mlops.registry.records.verdict import Verdict
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote.spec import PromoteResult, PromoteSpec

if TYPE_CHECKING:
    from mlflow import MlflowClient


def run(spec: PromoteSpec, context: StepContext) -> PromoteResult:
    """Make the winner of the verdict the champion, and record the decision in the ledger.

    The promotion is refused if no candidate passed every gate, if a required approval was not given, if the champion
    has changed since the evaluation, or if the champion was chosen on a later window of the same dataset.

    :raises RegistryError: MLflow cannot be used, or the ledger was tampered with
    """
    context = context.for_call()
    verdict = spec.verdict
    client = connect(spec.mlflow, context.connection)
    ledger = Ledger(context.store, verdict.model)
    card: dict[str, str] = {}

    def decide(entries: list[Entry]) -> Decision | None:
        now = settled_champion(client, ledger, entries)
        winner = verdict.winner
        rejected = spec.approval is not None and not spec.approval.granted
        if winner is not None and now is not None and winner.version == now.version and not rejected:
            return None
        refusal = verdict.reason if winner is None else _refusal(spec, now) or _newer(spec, now, entries, context.store)
        promoted = None if refusal else winner
        if promoted and not card:
            card.update(card_hashes(client, promoted))
        return Decision(
            decision="refused" if refusal else "promoted",
            replaced=now,
            champion=now if refusal else winner,
            candidates=verdict.candidates,
            dataset_name=verdict.dataset_name,
            dataset_id=verdict.dataset_id,
            code={"airflow_mlops": __version__, **(_code(client, winner) if winner else {})},
            origins=[origin(client, ref) for ref in _versions(verdict)],
            provenance=context.provenance,
            reason=refusal or verdict.reason,
            approval=spec.approval,
            refit=verdict.refit,
            files=verdict.files_of(promoted) if promoted else {},
            card=card if promoted else {},
        )

    entry = ledger.record(context.key, decide)
    if entry is None:
        return _unchanged(spec)
    if entry.moves:
        carry_out(client, ledger)
    index.update(context.store, verdict.model, "decisions")
    return _result(spec, entry, ledger.url(entry.seq))


def _versions(verdict: Verdict) -> list[ModelVersionRef]:
    """Return the candidates and, if the winner was fitted again, the new version."""
    refitted = verdict.refit.version if verdict.refit else None
    return [*(found.candidate for found in verdict.candidates), *([refitted] if refitted else [])]


def _refusal(spec: PromoteSpec, now: ModelVersionRef | None) -> str:
    if spec.approval is not None and not spec.approval.granted:
        answer = str(spec.approval)
        return f"{answer[0].upper()}{answer[1:]}."
    evaluated = spec.verdict.champion
    if (evaluated and evaluated.version) == (now and now.version):
        if spec.needs_approval and spec.approval is None:
            # The operator did not request approval, because the winner could not have replaced the champion at that
            # time.
            return (
                "The promotion needs approval, which was not requested because the champion had changed. Clear the task to "
                "request approval."
            )
        return ""
    before = f"the champion v{evaluated.version}" if evaluated else "no champion"
    present = f"the champion is v{now.version}" if now else "the model has no champion"
    return f"The candidates were compared with {before}, but now {present}. Evaluate the candidates again."


def _newer(spec: PromoteSpec, now: ModelVersionRef | None, entries: list[Entry], store: ArtifactStore) -> str:
    """Return why the champion is newer than the winner; empty if it is not, or if a person has approved the promotion.

    A user who clears the tasks of an earlier run evaluates on its earlier rows, on which a newer champion may be worse.
    """
    verdict = spec.verdict
    if now is None or (spec.approval is not None and spec.approval.by):
        return ""
    chosen = next((entry for entry in reversed(entries) if entry.promotes(now.version)), None)
    if chosen is None or chosen.dataset_name != verdict.dataset_name or chosen.dataset_id in (None, verdict.dataset_id):
        return ""
    try:
        ours, theirs = (
            read_manifest(store, verdict.dataset_name, str(item)).window
            for item in (verdict.dataset_id, chosen.dataset_id)
        )
    except (DatasetCorruptError, DatasetNotFoundError):
        return ""
    if ours is None or theirs is None or ours.end >= theirs.end:
        return ""
    return (
        f"The candidates were evaluated on {verdict.dataset_name} {ours.label}, but the champion v{now.version} was chosen on "
        f"{theirs.label}, which ends later. Evaluate on newer rows, or let a person approve the promotion."
    )


def _code(client: MlflowClient, winner: ModelVersionRef) -> dict[str, str]:
    """Return the tags that this package has set on the winner's MLflow run; ``{}`` if the winner has no MLflow run."""
    if not winner.run_id:
        return {}
    with registry_errors(f"The MLflow run of {winner} cannot be read"):
        tags = client.get_run(winner.run_id).data.tags
    return {name: value for name, value in tags.items() if name.startswith("mlops.")}


def _unchanged(spec: PromoteSpec) -> PromoteResult:
    winner = spec.verdict.winner
    reason = f"{winner} is already the champion."
    return PromoteResult(
        promoted=False,
        model=spec.verdict.model,
        winner=winner,
        champion=winner,
        reason=reason,
        approval=spec.approval,
        dataset_id=spec.verdict.dataset_id,
        summary=f"Nothing was promoted, because {reason}",
    )


def _result(spec: PromoteSpec, entry: Entry, ledger_url: str) -> PromoteResult:
    verdict = spec.verdict
    if entry.moves:
        assert verdict.winner is not None
        instead = f"in place of v{entry.replaced.version}" if entry.replaced else "as its first champion"
        approved = f" ({entry.approval})" if entry.approval else ""
        summary = f"Promoted {verdict.winner} {instead}{approved}: {entry.reason}"
    else:
        summary = f"Nothing was promoted for {verdict.model}: {entry.reason}"
    return PromoteResult(
        promoted=entry.moves,
        model=verdict.model,
        winner=verdict.winner,
        champion=entry.champion,
        replaced=entry.replaced if entry.moves else None,
        reason=entry.reason,
        approval=entry.approval,
        ledger_url=ledger_url,
        dataset_id=verdict.dataset_id,
        metrics=verdict.for_candidate(verdict.winner).metrics if entry.moves and verdict.winner else {},
        summary=summary,
    )
