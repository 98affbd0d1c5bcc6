"""Decide whether a window requests retraining, and record the request in the ledger.

:mod:`airflow_mlops.policy.retraining` decides, and :mod:`airflow_mlops.registry.requests` records the request.
"""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.core.calls import Request
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.policy import retraining
from airflow_mlops.policy.findings import Findings, RetrainingPlan
from airflow_mlops.policy.verdict import decide
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.requests import counted, record, recorded_requests
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.monitor.report import metrics, page_url


def request_retraining(
    findings: Findings,
    earlier: Sequence[Findings],
    context: StepContext,
    ledger: Ledger | None = None,
    seen: int | None = None,
) -> RetrainingPlan:
    """Decide whether the window requests retraining, and record a new request in the ledger.

    A window makes at most one request, even if the window is checked again. Requests of other windows can postpone the
    request; :func:`airflow_mlops.registry.requests.counted` defines which of them count.

    :param earlier: findings of earlier windows, ordered by time
    :param ledger: the ledger of the model, which caches the entries that it has read; by default the ledger is opened
        here
    :param seen: number of entries in the ledger when the check began; by default the number of entries now
    :raises RegistryError: an entry of the ledger was changed or removed
    """
    ledger = ledger or Ledger(context.store, findings.model)
    entries = ledger.updated_entries()
    since = len(entries) if seen is None else seen

    def plan(present: Sequence[Entry]) -> RetrainingPlan:
        recorded = recorded_requests(context.store, findings.model, present)
        found = counted(recorded, present, findings.window, since)
        return retraining.plan(findings, earlier, found.requests, found.refused, found.replaced)

    planned = plan(entries)
    if not planned.is_requested:
        return planned

    def propose(present: Sequence[Entry]) -> Request | None:
        nonlocal planned
        planned = plan(present)
        return _request(findings, planned, context.store) if planned.is_requested else None

    request_id = retraining.request_id(findings.model, findings.window)
    request = record(ledger, request_id, propose, findings.champion, context.provenance)
    made = request or planned.request
    return RetrainingPlan(triggers=planned.triggers, limits=planned.limits, request=made, without=planned.without)


def _request(findings: Findings, planned: RetrainingPlan, store: ArtifactStore) -> Request:
    return Request(
        id=retraining.request_id(findings.model, findings.window),
        model=findings.model,
        triggers=[active.trigger for active in planned.due],
        reason=decide(findings, planned).reason,
        window=findings.window,
        created=findings.created,
        metrics=metrics(findings),
        report_url=page_url(findings, store),
        code=findings.policy.code,
        without=planned.without,
    )
