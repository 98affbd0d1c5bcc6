"""Read and record requests for retraining in the ledger, and record which requests were answered.

:mod:`airflow_mlops.policy.retraining` decides whether to request retraining after a window. MonitorOperator sends the
asset event of a recorded request (:mod:`airflow_mlops.operators.retraining`).

A request is *answered* when a DAG run that the request has started begins its first training step (:func:`answer`), or
when its candidate is promoted or refused. Only answered requests limit later requests. For any other request, it is
unknown whether a training will ever start. The states of a request are:

- ``answered``;
- ``moot``: not answered, and the champion has changed since for another reason;
- ``expired``: not answered, and replaced by a request for a later window, or by a newer request for the same window;
- ``open``: none of these. A model has at most one open request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import quote
from uuid import uuid4

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger, folder_name
from airflow_mlops.registry.records.entry import Decision, Entry

State = Literal["open", "answered", "expired", "moot"]

BY_USER = "user"
"""The trigger of a request that a user has made."""


class Answer(Model):
    """The first training step that a request started.

    The file ``requests/MODEL/WINDOW.json`` in the artifact store contains the answer. For a request of a user, the file
    is ``requests/MODEL/WINDOW%2FENTRY.json``, where ENTRY is the number of its ledger entry.

    :param request: id of the request
    :param time: time at which the training step began, UTC
    :param dag_id: DAG of the training step
    :param run_id: DAG run of the training step
    :param task_id: task of the training step
    """

    request: str
    time: UtcDatetime
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""


@dataclass(frozen=True)
class RecordedRequest:
    """A request in the ledger, and its state.

    :param seq: number of the entry in the ledger
    :param replaced: whether the champion was changed after the request, by a decision that the request did not cause
    """

    request: Request
    seq: int
    state: State
    replaced: bool


@dataclass(frozen=True)
class Counted:
    """The earlier requests that are taken into account when a window may request retraining.

    :param requests: the earlier request of this window, and requests that may prevent a new request, see
        :func:`counted`
    :param refused: the requests whose candidates were refused since the champion last changed, newest first
    :param replaced: ids of the requests after which the champion changed for another reason
    """

    requests: list[Request]
    refused: list[Request]
    replaced: frozenset[str]


def answer(store: ArtifactStore, provenance: Provenance) -> None:
    """Record that a training has started for the requests that started the DAG run, unless this is already recorded.

    If several requests for a model started the run, the newest is answered.

    :param provenance: the task of the training step
    :raises StoreError: the store cannot be written
    """
    for model in {request.model for request in provenance.requests}:
        request = provenance.request(model)
        assert request is not None
        found = Answer(
            request=request.id,
            time=datetime.now(timezone.utc),
            dag_id=provenance.dag_id,
            run_id=provenance.run_id,
            task_id=provenance.task_id,
        )
        if not store.exists(key := _answer_key(request)):
            store.create_exclusive(key, found.model_dump_json(indent=1).encode())


def read_answer(store: ArtifactStore, request: Request) -> Answer | None:
    """Return the first training step that ``request`` started; ``None`` if no training step has begun."""
    try:
        return Answer.model_validate_json(store.read_bytes(_answer_key(request)))
    except FileNotFoundError:
        return None


def _answer_key(request: Request) -> str:
    # A window makes at most one request, but a user may make several requests for a window.
    by_user = BY_USER in request.triggers
    name = request.id.removeprefix(f"{request.model}/") if by_user else request.window.identity
    return f"requests/{folder_name(request.model)}/{quote(name, safe='')}.json"


def recorded_requests(store: ArtifactStore, model: str, entries: Sequence[Entry]) -> list[RecordedRequest]:
    """Return all requests in the ledger with their states, oldest first.

    :param entries: entries of the ledger, oldest first
    """
    started = set(store.keys(f"requests/{folder_name(model)}"))
    made = [(entry, entry.requested) for entry in entries if entry.decision == "requested"]
    requests = [(entry, request) for entry, request in made if request is not None]
    judged = {entry.requested.id for entry in entries if entry.requested and entry.decision in ("promoted", "refused")}
    moves = [(entry.seq, {request.id for request in entry.provenance.requests}) for entry in entries if entry.moves]
    found = []
    for entry, request in requests:
        replaced = any(seq > entry.seq and request.id not in answered for seq, answered in moves)
        later = any(
            other.window.end > request.window.end or (other.window == request.window and item.seq > entry.seq)
            for item, other in requests
        )
        state: State = (
            "answered"
            if request.id in judged or _answer_key(request) in started
            else "moot"
            if replaced
            else "expired"
            if later
            else "open"
        )
        found.append(RecordedRequest(request, entry.seq, state, replaced))
    return found


def counted(recorded: Sequence[RecordedRequest], entries: Sequence[Entry], window: Window, seen: int) -> Counted:
    """Find the recorded requests that can prevent ``window`` from requesting retraining.

    :attr:`Counted.requests` contains these requests:

    - the request that monitoring made for this window, in any state;
    - all answered requests;
    - the open request, if it is for a later window;
    - the requests that were recorded during the check of the window and are not moot. No training can have started for
      these requests yet.

    :param recorded: all requests in the ledger with their states, from :func:`recorded_requests`
    :param entries: entries of the ledger, oldest first
    :param window: the window that was checked
    :param seen: number of entries in the ledger when the check of the window began
    """
    counting = [
        item.request
        for item in recorded
        if (item.request.window == window and BY_USER not in item.request.triggers)
        or item.state == "answered"
        or (item.state == "open" and item.request.window.end > window.end)
        or (item.seq > seen and item.state != "moot")
    ]
    replaced = frozenset(item.request.id for item in recorded if item.replaced)
    return Counted(counting, refused_requests(entries), replaced)


def all_requests(entries: Sequence[Entry]) -> list[Request]:
    """Return all requests for retraining in the ledger, oldest first.

    :param entries: entries of the ledger, oldest first
    """
    return [entry.requested for entry in entries if entry.decision == "requested" and entry.requested is not None]


def refused_requests(entries: Sequence[Entry]) -> list[Request]:
    """Return the requests that led to a refused candidate since the champion last changed, newest first.

    :param entries: entries of the ledger, oldest first
    """
    refused = []
    for entry in reversed(entries):
        if entry.moves:
            break
        if entry.decision == "refused" and entry.requested is not None:
            refused.append(entry.requested)
    return refused


def by_user(ledger: Ledger, window: Window, reason: str, user: str, champion: ModelVersionRef | None) -> Entry:
    """Record that a user requests retraining.

    If the open request is by the same user for the same window and reason, its entry is returned instead.

    :param window: the last monitored window or, if no window was monitored yet, the last scored window
    :param reason: why the user requests retraining
    :param user: name of the user
    :param champion: the current champion; ``None`` if the model has no champion
    :return: the ledger entry of the request
    :raises RegistryError: the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """
    model, entry_id = ledger.model, f"requests/{ledger.model}/{uuid4().hex}"
    again: list[Entry] = []

    def decide(entries: list[Entry]) -> Decision | None:
        opened = [item for item in recorded_requests(ledger.store, model, entries) if item.state == "open"]
        last = entries[opened[-1].seq - 1] if opened else None
        if last is not None and (opened[-1].request.window, last.provenance.user, last.reason) == (
            window,
            user,
            reason,
        ):
            again.append(last)
            return None
        request = Request(
            id=f"{model}/{window.identity}/{len(entries) + 1}",
            model=model,
            triggers=[BY_USER],
            reason=reason,
            window=window,
            created=datetime.now(timezone.utc),
        )
        return Decision.keeping(
            champion,
            "requested",
            provenance=Provenance(user=user, requests=[request]),
            reason=reason,
        )

    return ledger.record(entry_id, decide) or again[-1]


def record(
    ledger: Ledger,
    request_id: str,
    propose: Callable[[Sequence[Entry]], Request | None],
    champion: ModelVersionRef | None,
    provenance: Provenance,
) -> Request | None:
    """Record a request for retraining in the ledger, at most once for each id.

    If several tasks record a request at the same time, only one task succeeds. Each of the other tasks calls
    ``propose`` again with the new entry included.

    :param request_id: id of the request. A retry uses the same id
    :param ledger: ledger of the model
    :param propose: function that takes the entries of the ledger, oldest first, and returns the request to record or
        ``None``
    :param champion: the current champion; ``None`` if the model has no champion
    :param provenance: Airflow task that records the request
    :return: the request in the ledger with the id ``request_id``, new or recorded earlier; ``None`` if ``propose``
        returned ``None``
    :raises RegistryError: the ledger was tampered with
    :raises StoreError: the ledger cannot be read or written
    """

    def decide(entries: list[Entry]) -> Decision | None:
        request = propose(entries)
        if request is None:
            return None
        return Decision.keeping(
            champion,
            "requested",
            provenance=Provenance(**{**dict(provenance), "requests": [request]}),
            reason=request.reason,
        )

    entry = ledger.record(f"requests/{request_id}", decide)
    return entry.requested if entry is not None else None
