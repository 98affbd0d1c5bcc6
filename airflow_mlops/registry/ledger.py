"""The ledger: every decision about a model's champion, and every request for another one, one JSON file each, never changed afterwards.

Layout under the artifact store, for a model called MODEL::

    ledger/MODEL/00000001.json
    ledger/MODEL/00000002.json

Each entry holds the SHA-256 of the file before, so a changed, removed or inserted entry shows; that of each promotion and
rollback is also kept in MLflow, on the version it made champion (:mod:`airflow_mlops.registry.aliases`), so that the end of the
chain cannot be cut off unseen. An object store has no append; a file is created only where there is none yet, so two writers
never take the same number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.errors import RegistryError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.approval import ApprovalRecord
from airflow_mlops.registry.verdict import CandidateVerdict


class Origin(Model):
    """What a version was made from, as its MLflow run says; empty where that does not.

    :param dataset: id of the training set
    :param package: version of ``airflow_mlops`` that trained it
    :param code: hash of the trainer's code
    :param environment: hash of Python's version and of the packages that the model's requirements pin
    """

    version: int
    dataset: str = ""
    package: str = ""
    code: str = ""
    environment: str = ""


def folder_name(name: str) -> str:
    """The name of a registered model, which may hold anything, as the name of one folder."""
    return quote(name, safe="").replace(".", "%2E")


class Decision(Model):
    """What was decided about a model's champion, and on what grounds.

    :param decision: ``requested`` is monitoring's: it wants another champion, and ``provenance`` holds the request
    :param replaced: the champion before the decision, if there was one
    :param champion: the champion after it, if there is one
    :param candidates: what was found about each candidate: metrics and gates with their numbers
    :param code: version of ``airflow_mlops``, and the tags of the new champion's run that name its code and data
    :param origins: what each candidate, or the version rolled back to, was made from
    :param reason: one sentence
    :param approval: who approved or rejected it, and when; ``None`` where nobody was asked
    """

    decision: Literal["promoted", "refused", "rolled_back", "requested"]
    replaced: ModelVersionRef | None
    champion: ModelVersionRef | None
    candidates: list[CandidateVerdict] = Field(default_factory=list)
    dataset_name: str | None = None
    dataset_id: str | None = None
    code: dict[str, str] = Field(default_factory=dict)
    origins: list[Origin] = Field(default_factory=list)
    provenance: Provenance = Provenance()
    reason: str
    approval: ApprovalRecord | None = None

    @property
    def moves(self) -> bool:
        """Whether the decision moves the champion."""
        return self.decision in ("promoted", "rolled_back")


class Entry(Decision):
    """A decision as it is kept.

    :param seq: its number: from 1, without gaps
    :param id: names the task that decided (:attr:`StepContext.key`), so that a retry finds what it wrote
    :param time: when it was written, UTC
    :param previous: SHA-256 of the file before, empty for the first
    :param sha256: of this entry's own file; not in it
    """

    seq: int
    id: str
    model: str
    time: UtcDatetime
    previous: str
    sha256: str = Field(default="", exclude=True)

    @property
    def requested(self) -> Request | None:
        """The request for retraining that the entry makes or answers; ``None`` where nobody asked."""
        return self.provenance.request(self.model)


def requests(entries: Sequence[Entry]) -> list[Request]:
    """All requests for retraining, by the time they were made."""
    return [entry.requested for entry in entries if entry.decision == "requested" and entry.requested is not None]


def refused_requests(entries: Sequence[Entry]) -> list[Request]:
    """The requests that the gates, or people, have refused since the champion last changed, newest first."""
    refused = []
    for entry in reversed(entries):
        if entry.moves:
            break
        if entry.decision == "refused" and entry.requested is not None:
            refused.append(entry.requested)
    return refused


class Ledger:
    """One model's decisions."""

    def __init__(self, store: ArtifactStore, model: str) -> None:
        self.store = store
        self.model = model
        self.folder = f"ledger/{folder_name(model)}"

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        :raises RegistryError: an entry was changed, removed or inserted; it names the entry and its file
        """
        entries: list[Entry] = []
        for key in self.store.keys(self.folder):
            data = self.store.read_bytes(key)
            try:
                entry = Entry.model_validate_json(data)
            except ValidationError as error:
                raise self.broken(f"{self.store.url_of(key)} is not an entry") from error
            seq = len(entries) + 1
            if key > self._key(seq):
                if self.store.exists(self._key(seq)):
                    # A folder that is written while it is listed may show a file and not the one before.
                    return self.entries()
                raise self.broken(f"entry {seq}, {self.url(seq)}, is missing")
            if key != self._key(seq) or entry.seq != seq:
                raise self.broken(f"{self.store.url_of(key)} is not entry {seq}, which would come here")
            if entry.previous != (entries[-1].sha256 if entries else ""):
                raise self.broken(self._where(entries, entry))
            entries.append(entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}))
        return entries

    def _where(self, entries: list[Entry], entry: Entry) -> str:
        if not entries:
            return f"entry 1, {self.url(entry.seq)}, was written after another one, which is gone"
        return (
            f"entry {entries[-1].seq}, {self.url(entries[-1].seq)}, is not what it was when entry {entry.seq}, "
            f"{self.url(entry.seq)}, was written after it"
        )

    def record(self, entry_id: str, decide: Callable[[list[Entry]], Decision | None]) -> Entry | None:
        """Write down, once, what ``decide`` makes of the entries so far.

        Where another task writes at the same time, one of the two comes first and the other is asked to decide
        again, with that entry before it.

        :param entry_id: the entry's ``id``; if it is in the ledger already, that entry is returned and nothing decided
        :param decide: returns ``None`` where there is nothing to write down
        """
        while True:
            entries = self.entries()
            for entry in entries:
                if entry.id == entry_id:
                    return entry
            decision = decide(entries)
            if decision is None:
                return None
            entry = Entry(
                **dict(decision),
                seq=len(entries) + 1,
                id=entry_id,
                model=self.model,
                time=datetime.now(timezone.utc),
                previous=entries[-1].sha256 if entries else "",
            )
            data = json.dumps(entry.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False).encode()
            if self.store.create_exclusive(self._key(entry.seq), data):
                return entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})

    def url(self, seq: int) -> str:
        """Where the file of the entry with this number lies."""
        return self.store.url_of(self._key(seq))

    def _key(self, seq: int) -> str:
        return f"{self.folder}/{seq:08d}.json"

    def broken(self, problem: str) -> RegistryError:
        """The error that says what is wrong with the chain.

        :param problem: which entry, which file, and what about it
        """
        return RegistryError(
            f"The ledger of {self.model!r} was tampered with: {problem}. "
            f"Restore the files under {self.store.url_of(self.folder)} from a backup."
        )
