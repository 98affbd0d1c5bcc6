"""The ledger, an append-only record of all decisions about a model's champion and of all requests for retraining.

Each entry is an immutable JSON file in the artifact store. For a model called MODEL::

    ledger/MODEL/00000001.json
    ledger/MODEL/00000002.json

Each entry contains the SHA-256 of the previous file, so a changed, removed or inserted entry is detected. MLflow stores the
SHA-256 of each promotion and rollback as a tag of the new champion (:mod:`airflow_mlops.registry.aliases`), so the removal of
the last entries is detected as well. Each entry has its own file, because object stores cannot append to a file. The artifact
store creates a file only if it does not exist, so two writers never use the same number.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from airflow_mlops.core.base import Model
from airflow_mlops.core.calls import Provenance, Request
from airflow_mlops.core.errors import RegistryError, StoreError
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import UtcDatetime
from airflow_mlops.data.store import ATTEMPTS, ArtifactStore, pauses
from airflow_mlops.registry.approval import ApprovalRecord
from airflow_mlops.registry.verdict import CandidateVerdict, Refit


class Origin(Model):
    """The training set, code and environment of a model version, from the tags of its MLflow run.

    A field is empty if the run does not have the corresponding tag.

    :param version: number of the model version
    :param dataset: id of the training set
    :param package: version of ``airflow_mlops`` that trained the model version
    :param code: hash of the trainer's code
    :param environment: hash of the versions of Python and of the packages in the model's requirements
    """

    version: int
    dataset: str = ""
    package: str = ""
    code: str = ""
    environment: str = ""


def folder_name(name: str) -> str:
    """Return a folder name for a registered model. The name of the model may contain any characters."""
    return quote(name, safe="").replace(".", "%2E")


class Decision(Model):
    """A decision about a model's champion, with the facts that it is based on.

    :param decision: kind of decision. ``requested`` means that monitoring requested retraining; ``provenance`` contains
        the request
    :param replaced: the champion before the decision; ``None`` if the model had no champion
    :param champion: the champion after the decision; ``None`` if the model has no champion
    :param candidates: metrics and gate results of each candidate
    :param dataset_name: name of the dataset on which the candidates were evaluated; ``None`` without an evaluation
    :param dataset_id: id of this dataset
    :param code: version of ``airflow_mlops``, and the tags of the new champion's MLflow run
    :param origins: training set, code and environment of each candidate, or of the champion after a rollback
    :param reason: the reason in one sentence
    :param approval: a person's answer to the request for approval; ``None`` if no approval was needed
    :param refit: how the winner was fitted again on all rows, with the judged version; ``None`` if it was not
    :param files: after a promotion, SHA-256 of each file of the new champion, by path; empty in entries of earlier releases
    :param card: after a promotion, SHA-256 of the new champion's model card and verdict, by name of the file
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
    refit: Refit | None = None
    files: dict[str, str] = Field(default_factory=dict)
    card: dict[str, str] = Field(default_factory=dict)

    @property
    def moves(self) -> bool:
        """Return whether the decision changes the champion."""
        return self.decision in ("promoted", "rolled_back")


class Entry(Decision):
    """A numbered entry of the ledger, which contains a decision.

    :param seq: number of the entry, from 1 without gaps
    :param id: key of the task that made the decision (:attr:`StepContext.key`). A retry of the task finds the entry by
        this key
    :param model: name of the registered model
    :param time: time at which the entry was written, UTC
    :param previous: SHA-256 of the previous entry's file; empty for the first entry
    :param sha256: SHA-256 of this entry's file; not stored in the file
    """

    seq: int
    id: str
    model: str
    time: UtcDatetime
    previous: str
    sha256: str = Field(default="", exclude=True)

    def promotes(self, version: int) -> bool:
        """Return whether this entry made a version champion after an evaluation, and not by a rollback."""
        return self.decision == "promoted" and self.champion is not None and self.champion.version == version

    @property
    def contract_sha256(self) -> str | None:
        """Return the SHA-256 of the contract of a promoted foreign version; ``None`` for any other entry."""
        return next((item.contract_sha256 for item in self.candidates if item.candidate == self.champion), None)

    @property
    def requested(self) -> Request | None:
        """Return the request for retraining that this entry records or answers; ``None`` if it refers to no request."""
        return self.provenance.request(self.model)


class Ledger:
    """The ledger of one registered model: a record of decisions and retraining requests that is only appended to.

    :param store: artifact store with the files of the ledger
    :param model: name of the registered model
    """

    def __init__(self, store: ArtifactStore, model: str) -> None:
        self.store = store
        self.model = model
        self.folder = f"ledger/{folder_name(model)}"

    def entries(self) -> list[Entry]:
        """Read all entries, oldest first.

        :raises RegistryError: an entry was changed, removed or inserted; the error names the entry and its file
        :raises StoreError: the store cannot be read
        """
        return self._newer_entries([])

    def _newer_entries(self, known: list[Entry]) -> list[Entry]:
        """Read the entries after ``known``. Return all entries, oldest first."""
        for pause in pauses():
            entries = self._listed_entries(known)
            if entries is not None:
                return entries
            time.sleep(pause)
        raise StoreError(
            f"The artifact store {self.store.url} lists the files of the ledger of {self.model!r} incompletely. Retry "
            "later, or use a store whose listings are consistent."
        )

    def _listed_entries(self, known: list[Entry]) -> list[Entry] | None:
        """Read the entries after ``known``. The result is ``None`` if the listing lacks a file that exists."""
        entries = [*known]
        for key in self.store.keys(self.folder)[len(known) :]:
            data = self.store.read_bytes(key)
            try:
                entry = Entry.model_validate_json(data)
            except ValidationError as error:
                raise self.tampered(f"{self.store.url_of(key)} is not an entry") from error
            seq = len(entries) + 1
            if key > self._key(seq):
                if self.store.exists(self._key(seq)):
                    # A listing that runs during a write may contain the new file but not the previous one.
                    return None
                raise self.tampered(f"entry {seq}, {self.url(seq)}, is missing")
            if key != self._key(seq) or entry.seq != seq:
                raise self.tampered(f"{self.store.url_of(key)} is in the place of entry {seq}")
            if entry.previous != (entries[-1].sha256 if entries else ""):
                raise self.tampered(self._broken_link(entries, entry))
            entries.append(entry.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}))
        return entries

    def promotion(self, version: int) -> Entry | None:
        """Return the last entry that promoted a version; ``None`` if the ledger has no such entry.

        The ledger is read from its end to this entry. The chain of hashes is not checked.

        :raises RegistryError: a file of the ledger is not an entry
        """
        for key in reversed(self.store.keys(self.folder)):
            try:
                entry = Entry.model_validate_json(self.store.read_bytes(key))
            except ValidationError as error:
                raise self.tampered(f"{self.store.url_of(key)} is not an entry") from error
            if entry.promotes(version):
                return entry
        return None

    def count(self) -> int:
        """Return the number of entries, without reading them."""
        return len(self.store.keys(self.folder))

    def _broken_link(self, entries: list[Entry], entry: Entry) -> str:
        if not entries:
            return f"entry 1, {self.url(entry.seq)}, was written after another entry, which was removed"
        return (
            f"entry {entries[-1].seq}, {self.url(entries[-1].seq)}, was changed after entry {entry.seq}, "
            f"{self.url(entry.seq)}, was written"
        )

    def record(self, entry_id: str, decide: Callable[[list[Entry]], Decision | None]) -> Entry | None:
        """Append a decision to the ledger, at most once for each ``entry_id``.

        If two tasks append an entry at the same time, only one task succeeds. The second task calls ``decide`` again
        with the entry of the first task included.

        :param entry_id: the ``id`` of the entry. If the ledger already contains an entry with this id, nothing is appended
        :param decide: function that takes the existing entries and returns the decision, or ``None`` to append nothing
        :return: the new or existing entry; ``None`` if ``decide`` returned ``None``
        :raises RegistryError: an existing entry was changed, removed or inserted
        :raises StoreError: the ledger cannot be read or written, or other tasks were faster at every attempt
        """
        entries: list[Entry] = []
        for pause in pauses():
            entries = self._newer_entries(entries)
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
            time.sleep(pause)
        raise StoreError(
            f"The ledger of {self.model!r} was not written, because other tasks wrote an entry before each of "
            f"{ATTEMPTS} attempts. Retry later."
        )

    def url(self, seq: int) -> str:
        """Return the URL of the file of entry number ``seq``."""
        return self.store.url_of(self._key(seq))

    def _key(self, seq: int) -> str:
        return f"{self.folder}/{seq:08d}.json"

    def tampered(self, problem: str) -> RegistryError:
        """Create the error for a ledger that was tampered with.

        :param problem: a clause that names the entry, its file and the change, such as ``entry 3, URL, is missing``
        """
        return RegistryError(
            f"The ledger of {self.model!r} was tampered with: {problem}. "
            f"Restore the files under {self.store.url_of(self.folder)} from a backup."
        )
