"""The ledger: every decision about a model's champion, one JSON file each, never changed afterwards.

Layout under the artifact store, for a model called MODEL::

    ledger/MODEL/00000001.json
    ledger/MODEL/00000002.json

Each entry holds the SHA-256 of the file before, so a changed, removed or inserted entry shows. An object store has no
append; a file is created only where there is none yet, so two writers never take the same number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from airflow_mlops.artifacts.store import ArtifactStore
from airflow_mlops.exceptions import RegistryError
from airflow_mlops.specs.base import Model, ModelVersionRef, Provenance, UtcDatetime
from airflow_mlops.specs.verdict import CandidateVerdict

Kind = Literal["promoted", "refused", "rolled_back"]


class Decision(Model):
    """What was decided about a model's champion, and on what grounds.

    :param replaced: the champion before the decision, if there was one
    :param champion: the champion after it, if there is one
    :param candidates: what was found about each candidate: metrics and gates with their numbers
    :param code: version of ``airflow_mlops``, and the tags of the new champion's run that name its code and data
    :param reason: one sentence
    :param approval: who approved, where somebody was asked
    """

    decision: Literal["promoted", "refused", "rolled_back"]
    replaced: ModelVersionRef | None
    champion: ModelVersionRef | None
    candidates: list[CandidateVerdict] = Field(default_factory=list)
    dataset_name: str | None = None
    dataset_id: str | None = None
    code: dict[str, str] = Field(default_factory=dict)
    provenance: Provenance = Provenance()
    reason: str
    approval: dict[str, Any] | None = None

    @property
    def moves(self) -> bool:
        """Whether the decision moves the champion."""
        return self.decision != "refused"


class Entry(Decision):
    """A decision as it is kept.

    :param seq: its number: from 1, without gaps
    :param id: names the task that decided (:attr:`StepContext.key`), so that a retry finds what it wrote
    :param time: when it was written, UTC
    :param previous: SHA-256 of the file before, empty for the first
    """

    seq: int
    id: str
    model: str
    time: UtcDatetime
    previous: str


class Ledger:
    """One model's decisions."""

    def __init__(self, store: ArtifactStore, model: str) -> None:
        self.store = store
        self.model = model
        self.folder = f"ledger/{quote(model, safe='').replace('.', '%2E')}"

    def entries(self) -> list[Entry]:
        """All entries, oldest first.

        :raises RegistryError: an entry was changed, removed or inserted
        """
        return self._read()[0]

    def record(self, entry_id: str, decide: Callable[[list[Entry]], Decision | None]) -> Entry | None:
        """Write down, once, what ``decide`` makes of the entries so far.

        Where another task writes at the same time, one of the two comes first and the other is asked to decide
        again, with that entry before it.

        :param entry_id: the entry's ``id``; if it is in the ledger already, that entry is returned and nothing decided
        :param decide: returns ``None`` where there is nothing to write down
        """
        while True:
            entries, previous = self._read()
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
                previous=previous,
            )
            data = json.dumps(entry.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False).encode()
            if self.store.create_exclusive(self._key(entry.seq), data):
                return entry

    def url(self, entry: Entry) -> str:
        """Where the entry's file lies."""
        return self.store.url_of(self._key(entry.seq))

    def _key(self, seq: int) -> str:
        return f"{self.folder}/{seq:08d}.json"

    def _read(self) -> tuple[list[Entry], str]:
        """All entries, and the SHA-256 of the last one's file."""
        entries: list[Entry] = []
        previous = ""
        for key in self.store.keys(self.folder):
            data = self.store.read_bytes(key)
            try:
                entry = Entry.model_validate_json(data)
            except ValidationError as error:
                raise self._broken(key, "it is not an entry") from error
            if entry.seq != len(entries) + 1 or entry.previous != previous:
                raise self._broken(key, "the entry before it is not the one it was written after")
            entries.append(entry)
            previous = hashlib.sha256(data).hexdigest()
        return entries, previous

    def _broken(self, key: str, problem: str) -> RegistryError:
        return RegistryError(
            f"The ledger of {self.model!r} was tampered with: see {self.store.url_of(key)}, {problem}. "
            f"Restore the files under {self.folder} from a backup."
        )
