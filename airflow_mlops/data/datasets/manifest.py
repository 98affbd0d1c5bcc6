"""The manifest of a dataset, and the keys of manifests and pointers in the artifact store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import UtcDatetime, Window


class FileEntry(Model):
    """A Parquet file of a dataset.

    :param path: key of the file in the artifact store
    :param part: split part whose rows the file contains: ``train`` or ``test``, or ``data`` if the dataset is not split
    :param rows: number of rows
    :param bytes: size in bytes
    :param sha256: SHA-256 of the file's content
    """

    path: str
    part: str
    rows: int
    bytes: int
    sha256: str


class ColumnEntry(Model):
    """The name and Arrow type of a dataset's column."""

    name: str
    type: str


class Manifest(Model):
    """The description of a dataset: its files, columns, window, origin and parents.

    ``id`` is a hash of ``name``, ``window``, ``columns``, ``parents``, ``details`` and, for each file, ``part``,
    ``rows`` and ``sha256``. The fields ``owner``, ``description``, ``source``, ``provenance``, ``created`` and
    ``time_column`` do not affect ``id``.

    :param format: version of the manifest's format
    :param window: time window of the rows; ``None`` for a snapshot
    :param rows: number of rows in all files together
    :param parents: ids of the datasets from which this dataset was computed
    :param details: facts recorded by the step that wrote the dataset, such as label, features and split
    :param source: origin of the rows, without credentials
    :param created: time at which the dataset was first written, in UTC
    :param purged: time at which the files were purged; ``None`` while they exist
    :param time_column: column with the time of each row; ``None`` if it is not known
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
    time_column: str | None = None

    @property
    def ref(self) -> DatasetRef:
        """Return a reference to this dataset."""
        parts: dict[str, int] = {}
        for file in self.files:
            parts[file.part] = parts.get(file.part, 0) + file.rows
        return DatasetRef(name=self.name, id=self.id, rows=self.rows, window=self.window, parts=parts)

    @property
    def column_names(self) -> list[str]:
        """Return the names of the columns, in order."""
        return [column.name for column in self.columns]


def manifests_folder(name: str) -> str:
    """Return the folder that contains the manifests of all datasets with this name."""
    return f"datasets/{name}/manifests"


def snapshots_folder(name: str) -> str:
    """Return the folder that contains a pointer to each snapshot. A snapshot is a dataset without a window."""
    return f"datasets/{name}/snapshots"


def withdrawn_folder(name: str) -> str:
    """Return the folder that contains the tombstones of withdrawn windows and snapshots."""
    return f"datasets/{name}/withdrawn"


def manifest_key(name: str, dataset_id: str) -> str:
    """Return the key of a dataset's manifest."""
    return f"{manifests_folder(name)}/{dataset_id}.json"
