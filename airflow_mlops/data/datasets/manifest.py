"""The manifest of a dataset, and where manifests and pointers to them lie in the store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import UtcDatetime, Window


class FileEntry(Model):
    """One Parquet file of a dataset.

    :param path: key of the file in the artifact store
    :param part: the part of the dataset it belongs to, such as ``data``, ``train`` or ``test``
    """

    path: str
    part: str
    rows: int
    bytes: int
    sha256: str


class ColumnEntry(Model):
    """One column of a dataset: its name and Arrow type."""

    name: str
    type: str


class Manifest(Model):
    """Describes a dataset completely.

    ``id`` is a hash of ``name``, ``window``, ``columns``, ``parents``, ``details`` and each file's part, rows and hash.
    Owner, description, source and provenance do not contribute to it.

    :param parents: ids of the datasets it was made from
    :param details: facts recorded by the step that wrote it: label, features, split, counts by expectation, ...
    :param source: origin of the rows, without credentials
    :param created: when it was first written, UTC
    :param purged: when retention deleted its files; ``None`` while they exist
    """

    format: int = 1
    id: str
    name: Name
    owner: str = ""
    description: str = ""
    source: dict[str, Any] = Field(default_factory=dict)
    window: Window | None = None
    columns: list[ColumnEntry]
    rows: int
    files: list[FileEntry]
    parents: list[str] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)
    provenance: Provenance = Provenance()
    created: datetime
    purged: UtcDatetime | None = None

    @property
    def ref(self) -> DatasetRef:
        """A reference to this dataset."""
        parts: dict[str, int] = {}
        for file in self.files:
            parts[file.part] = parts.get(file.part, 0) + file.rows
        return DatasetRef(name=self.name, id=self.id, rows=self.rows, window=self.window, parts=parts)

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, in order."""
        return [column.name for column in self.columns]


def manifests_folder(name: str) -> str:
    """The folder of the manifests."""
    return f"datasets/{name}/manifests"


def windows_folder(name: str) -> str:
    """The folder of the pointers to the current dataset of each window."""
    return f"datasets/{name}/windows"


def slots_folder(name: str) -> str:
    """The folder of the pointers to the current dataset of each slot."""
    return f"datasets/{name}/slots"


def manifest_key(name: str, dataset_id: str) -> str:
    """The key of a manifest."""
    return f"{manifests_folder(name)}/{dataset_id}.json"


def window_key(name: str, window: Window) -> str:
    """The key of a window's pointer."""
    return f"{windows_folder(name)}/{window.key}.json"


def slot_key(name: str, slot: str) -> str:
    """The key of a slot's pointer."""
    return f"{slots_folder(name)}/{slot}.json"
