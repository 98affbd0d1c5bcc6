"""Record that an endpoint is removed. The operator then deletes the endpoint, so a retry completes the removal."""

from __future__ import annotations

from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.deploy.record import record
from airflow_mlops.stages.undeploy.spec import UndeployResult, UndeploySpec


def run(spec: UndeploySpec, context: StepContext) -> UndeployResult:
    """Record the removal of an endpoint in the ledger, unless there is no endpoint.

    :raises RegistryError: the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """
    context, endpoint = context.for_call(), spec.endpoint
    if endpoint is None:
        summary = f"{spec.model} has no endpoint to remove."
        return UndeployResult(removed=False, model=spec.model, summary=summary)
    summary = f"Removed {endpoint}, which served {endpoint.version}{' and followed the champion' if endpoint.follows else ''}."
    url = record(context.store, context.key, context.provenance, "undeployed", endpoint, summary)
    return UndeployResult(removed=True, model=spec.model, endpoint=endpoint, ledger_url=url, summary=summary)
