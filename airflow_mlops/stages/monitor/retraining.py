"""What monitoring knows of retraining beyond the window: new data, new code, and what was asked for and refused before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops import __version__
from airflow_mlops.core.calls import Request
from airflow_mlops.core.errors import DatasetNotFoundError
from airflow_mlops.core.references import DatasetRef, ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import find_datasets, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.models.contracts import VersionContract
from airflow_mlops.policy import decision as policy
from airflow_mlops.policy import retraining
from airflow_mlops.policy.findings import Arrivals, Findings, Retraining
from airflow_mlops.registry.ledger import Decision, Entry, Ledger, refused_requests, requests
from airflow_mlops.registry.origins import CODE_VERSION, code_version
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor import report as monitor_report

if TYPE_CHECKING:
    from mlflow import MlflowClient


def since_training(
    found: Findings, champion: ModelVersionRef, known: VersionContract, client: MlflowClient, store: ArtifactStore
) -> dict[str, Any]:
    """The new data and the code of the champion, as far as the policy asks for them and they are known."""
    facts: dict[str, Any] = {}
    notes = []
    if found.policy.new_data is not None:
        facts["arrivals"] = _arrivals(found, known, store)
        if facts["arrivals"] is None:
            notes.append(
                f"How much data has come since {champion} was trained is not known: its training set has no time window "
                "in this artifact store."
            )
    if found.policy.code is not None:
        facts["code_version"] = code_version(client, champion)
        if facts["code_version"] is None:
            notes.append(f"Which code trained {champion} is not known: its MLflow run has no tag {CODE_VERSION}.")
    return {**facts, "notes": [*found.notes, *notes]}


def _arrivals(found: Findings, known: VersionContract, store: ArtifactStore) -> Arrivals | None:
    wanted = found.policy.new_data
    assert wanted is not None
    contract = known.contract
    try:
        trained = open_dataset(store, DatasetRef(name=contract.dataset_name, id=contract.dataset_id, rows=0)).manifest
    except DatasetNotFoundError:
        return None
    if trained.window is None:
        return None
    come = []
    if trained.window.end < found.window.end:
        try:
            come = find_datasets(store, wanted.dataset, Window(start=trained.window.end, end=found.window.end))
        except DatasetNotFoundError:
            come = []
    rows = sum(dataset.manifest.rows for dataset in come)
    share = rows / trained.rows if trained.rows else None
    return Arrivals(dataset=wanted.dataset, windows=len(come), rows=rows, share=share)


def plan(found: Findings, earlier: Sequence[Findings], context: StepContext) -> Retraining:
    """What the policy makes of what was found; a request is written into the ledger, once for a window.

    Where checks of other windows decide at the same time, one comes first, and the others decide with its request before
    them.

    :raises RegistryError: the ledger was tampered with
    """
    ledger = Ledger(context.store, found.model)
    planned = _plan(found, earlier, ledger.entries())
    if not planned.asks:
        return planned

    def decide(entries: list[Entry]) -> Decision | None:
        nonlocal planned
        planned = _plan(found, earlier, entries)
        return _requested(found, planned, context) if planned.asks else None

    name = retraining.name_of(found.model, found.window)
    entry = ledger.record(f"requests/{name}", decide)
    return planned if entry is None else planned.model_copy(update={"request": entry.requested})


def _plan(found: Findings, earlier: Sequence[Findings], entries: Sequence[Entry]) -> Retraining:
    return policy.plan(found, earlier, requests(entries), refused_requests(entries))


def _requested(found: Findings, planned: Retraining, context: StepContext) -> Decision:
    request = Request(
        id=retraining.name_of(found.model, found.window),
        model=found.model,
        triggers=[held.trigger for held in planned.due],
        reason=policy.decide(found, planned).reason,
        window=found.window,
        created=found.created,
        metrics=monitor_report.metrics(found),
        report_url=monitor_report.page_url(found, context.store),
        code=found.policy.code,
    )
    return Decision(
        decision="requested",
        replaced=found.champion,
        champion=found.champion,
        code={"airflow_mlops": __version__},
        provenance=context.provenance.model_copy(update={"requests": [request]}),
        reason=request.reason,
    )
