"""Record endpoints in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from airflow_mlops.core.calls import Provenance
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import index
from airflow_mlops.registry.aliases import recorded_champion
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.endpoint import Endpoint
from airflow_mlops.registry.records.entry import Decision, Entry


def record(
    store: ArtifactStore,
    key: str,
    provenance: Provenance,
    decision: Literal["deployed", "undeployed"],
    endpoint: Endpoint,
    reason: str,
) -> str:
    """Append an entry about an endpoint to the ledger, at most once for each ``key``.

    :param key: key of the task's result
    :param decision: ``deployed`` or ``undeployed``
    :param endpoint: the endpoint that was deployed or removed
    :param reason: the reason in one sentence
    :return: URL of the entry
    :raises RegistryError: the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """
    ledger = Ledger(store, endpoint.version.model)

    def decide(entries: Sequence[Entry]) -> Decision:
        return Decision.keeping(
            recorded_champion(entries),
            decision,
            provenance=provenance,
            reason=reason,
            endpoint=endpoint,
        )

    entry = ledger.record(key, decide)
    assert entry is not None
    index.update(store, endpoint.version.model, "decisions")
    return ledger.url(entry.seq)
