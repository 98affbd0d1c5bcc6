"""The decisions about a model, from its ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.overview import copies
from airflow_mlops.overview.facts import (
    Acknowledgement,
    CandidateFacts,
    Chain,
    Champion,
    DecisionFacts,
    OpenRequest,
    TaskFacts,
    WindowFacts,
)
from airflow_mlops.registry.ledger import Ledger, folder_name
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.records.verdict import CandidateVerdict
from airflow_mlops.registry.requests import BY_USER, read_answer, recorded_requests

# Version of the stored copy of the entries, and the largest number of entries that are read without a copy.
_VERSION, _FEW = 1, 3
# Largest number of acknowledgements in a summary. Pages show only that of the last window.
_ACKNOWLEDGEMENTS = 36


class AcknowledgedWindow(Model):
    """An acknowledgement, and its window."""

    window: WindowFacts
    acknowledgement: Acknowledgement


class Standing(Model):
    """The result of all decisions about a model.

    :param champion: the champion; ``None`` if the model has no champion
    :param previous: the version that the champion replaced
    :param request: the last request for retraining; ``None`` if there is none, or it led to a decision
    :param acknowledged: the last acknowledgement of each of the last acknowledged windows
    :param train: DAGs that promoted, refused or rolled back a version
    :param monitor: DAGs that requested retraining
    """

    champion: Champion | None = None
    previous: int | None = None
    request: OpenRequest | None = None
    acknowledged: list[AcknowledgedWindow] = Field(default_factory=list)
    train: list[str] = Field(default_factory=list)
    monitor: list[str] = Field(default_factory=list)


def read(store: ArtifactStore, model: str) -> tuple[list[Entry], Chain]:
    """Return the entries of a ledger, oldest first, and the state of its chain of hashes.

    If an entry was changed, removed or inserted, all readable entries are returned.

    :raises StoreError: the store cannot be read
    """
    ledger = Ledger(store, model)
    contents = _contents(store, ledger.folder, model)
    try:
        return ledger.checked(contents), Chain()
    except RegistryError as error:
        entries = [entry for content in contents.values() if (entry := _parse(content)) is not None]
        return sorted(entries, key=lambda entry: entry.seq), Chain(intact=False, problem=str(error))


def _contents(store: ArtifactStore, folder: str, model: str) -> dict[str, bytes]:
    """Return the content of the file of each entry, by key.

    The content comes from the copy, or from the file itself if the file has changed since it was copied.
    """
    key = f"indexes/decisions/{folder_name(model)}.json.gz"
    listed = {key: info for key, info in store.find_info(folder).items() if not key.rpartition("/")[2].startswith(".")}
    known = copies.load(store, key, _VERSION) if len(listed) > _FEW else {}
    found = copies.read(store, dict(sorted(listed.items())), lambda _, content: content.decode(errors="replace"), known)
    if len(listed) > _FEW and found.read:
        copies.save(store, key, _VERSION, found.values)
    return {key: str(content).encode() for key, (_, content) in found.values.items()}


def _parse(content: bytes) -> Entry | None:
    try:
        return Entry.model_validate_json(content).model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    except ValidationError:
        return None


def standing(store: ArtifactStore, model: str, entries: Sequence[Entry]) -> Standing:
    """Return the result of all decisions: the champion, the last retraining request, and the acknowledged windows.

    :param entries: entries of the ledger, oldest first
    :raises StoreError: the store cannot be read
    """
    moves = [entry for entry in entries if entry.moves]
    last = moves[-1] if moves else None
    champion = None
    if last is not None and last.champion is not None:
        champion = Champion(version=last.champion.version, since=last.time, by=user_of(last), reason=last.reason)
    return Standing(
        champion=champion,
        previous=last.replaced.version if last is not None and last.replaced is not None else None,
        request=_open_request(store, model, entries),
        acknowledged=_acknowledged(entries),
        train=_dags(entries, {"promoted", "refused", "rolled_back"}),
        monitor=_dags(entries, {"requested"}),
    )


def _open_request(store: ArtifactStore, model: str, entries: Sequence[Entry]) -> OpenRequest | None:
    if not any(entry.decision == "requested" for entry in entries):
        return None
    recorded = recorded_requests(store, model, entries)
    decided = {
        request.id for entry in entries if entry.decision != "requested" for request in entry.provenance.requests
    }
    last = next((item for item in reversed(recorded) if item.state == "open"), recorded[-1])
    if last.state not in ("open", "answered") or last.request.id in decided or last.replaced:
        return None
    # Do not index by the number: if the ledger was tampered with, earlier entries may be missing.
    by = author_of(next(entry for entry in entries if entry.seq == last.seq))
    request, begun = last.request, None
    if last.state == "answered":
        # The file may be damaged, or of a later release.
        with suppress(ValidationError):
            begun = read_answer(store, request)
    found = OpenRequest(id=request.id, reason=request.reason, created=request.created, state=last.state, by=by)
    if begun is None:
        return found
    task = TaskFacts(dag_id=begun.dag_id, run_id=begun.run_id, task_id=begun.task_id) if begun.dag_id else None
    return found.model_copy(update={"started": begun.time, "training": task})


def _acknowledged(entries: Sequence[Entry]) -> list[AcknowledgedWindow]:
    found = {
        entry.window: AcknowledgedWindow(
            window=WindowFacts.of(entry.window),
            acknowledgement=Acknowledgement(by=user_of(entry) or "", at=entry.time, note=entry.reason),
        )
        for entry in entries
        if entry.decision == "acknowledged" and entry.window is not None
    }
    return list(found.values())[-_ACKNOWLEDGEMENTS:]


def _dags(entries: Sequence[Entry], decisions: set[str]) -> list[str]:
    found = {entry.provenance.dag_id for entry in entries if entry.decision in decisions}
    return sorted(found - {""})


def author_of(entry: Entry) -> str | None:
    """Return the user who made a decision, or monitoring with its DAG and task; ``None`` if neither made it."""
    if not _is_by_monitoring(entry):
        return user_of(entry)
    place = entry.provenance
    return f"monitoring: DAG {place.dag_id}, task {place.task_id}" if place.dag_id else "monitoring"


def _is_by_monitoring(entry: Entry) -> bool:
    return entry.decision == "requested" and entry.requested is not None and BY_USER not in entry.requested.triggers


def user_of(entry: Entry) -> str | None:
    """Return the user who made a decision; ``None`` if no user did.

    A request of monitoring has no user, although a user may have triggered the run of the monitoring DAG.
    """
    if _is_by_monitoring(entry):
        return None
    return (entry.approval.by if entry.approval is not None else "") or entry.provenance.user or None


def facts(entry: Entry) -> DecisionFacts:
    """Return the facts of an entry."""
    asked = entry.requested if entry.decision == "requested" else None
    window = entry.window or (asked.window if asked is not None else None)
    provenance = entry.provenance
    return DecisionFacts(
        seq=entry.seq,
        time=entry.time,
        decision=entry.decision,
        champion=entry.champion.version if entry.champion is not None else None,
        replaced=entry.replaced.version if entry.replaced is not None else None,
        by=author_of(entry),
        reason=entry.reason,
        approval=entry.approval,
        candidates=[_candidate(item) for item in entry.candidates],
        window=WindowFacts.of(window) if window is not None else None,
        dag_id=provenance.dag_id,
        run_id=provenance.run_id,
        task_id=provenance.task_id,
        map_index=provenance.map_index,
        refit=entry.refit,
        endpoint=entry.endpoint,
        canary=entry.canary,
    )


def _candidate(found: CandidateVerdict) -> CandidateFacts:
    return CandidateFacts(
        version=found.candidate.version,
        passed=found.passed,
        reason=found.reason,
        metrics=found.metrics,
        gates=found.gates,
    )
