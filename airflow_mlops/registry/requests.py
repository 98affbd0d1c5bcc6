"""Read and record requests for retraining in the ledger.

:mod:`airflow_mlops.policy.retraining` decides whether to request retraining after a window. MonitorOperator sends the asset
event of a recorded request (:mod:`airflow_mlops.operators.retraining`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.registry.ledger import Decision, Entry, Ledger


def all_requests(entries: Sequence[Entry]) -> list[Request]:
    """Return all requests for retraining in the ledger, oldest first.

    :param entries: entries of the ledger, oldest first
    """
    return [entry.requested for entry in entries if entry.decision == "requested" and entry.requested is not None]


def refused_requests(entries: Sequence[Entry]) -> list[Request]:
    """Return the requests that led to a refused candidate since the last promotion or rollback, newest first.

    :param entries: entries of the ledger, oldest first
    """
    refused = []
    for entry in reversed(entries):
        if entry.moves:
            break
        if entry.decision == "refused" and entry.requested is not None:
            refused.append(entry.requested)
    return refused


def record(
    ledger: Ledger,
    request_id: str,
    propose: Callable[[Sequence[Request], Sequence[Request]], Request | None],
    champion: ModelVersionRef | None,
    provenance: Provenance,
) -> Request | None:
    """Record a request for retraining in the ledger, at most once for each id.

    If several tasks record a request at the same time, only one task succeeds. Each of the other tasks calls
    ``propose`` again with the new request included.

    :param request_id: id of the request. A retry uses the same id
    :param ledger: ledger of the model
    :param propose: function that takes all requests (oldest first) and the refused requests (newest first), and returns
        the request to record or ``None``
    :param champion: the current champion; ``None`` if the model has no champion
    :param provenance: Airflow task that records the request
    :return: the request in the ledger with the id ``request_id``, new or recorded earlier; ``None`` if ``propose``
        returned ``None``
    :raises RegistryError: the ledger was tampered with
    """

    def decide(entries: list[Entry]) -> Decision | None:
        request = propose(all_requests(entries), refused_requests(entries))
        if request is None:
            return None
        return Decision(
            decision="requested",
            replaced=champion,
            champion=champion,
            code={"airflow_mlops": __version__},
            provenance=Provenance(**{**dict(provenance), "requests": [request]}),
            reason=request.reason,
        )

    entry = ledger.record(f"requests/{request_id}", decide)
    return entry.requested if entry is not None else None
