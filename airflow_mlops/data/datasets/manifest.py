"""The manifest of a dataset, and the keys of manifests and pointers in the artifact store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError

from airflow_mlops.core import strict_json
from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetCorruptError, DatasetFormatError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import UtcDatetime, Window

FORMAT = 2
"""The newest format of manifests that this version of the package reads."""


class FileEntry(Model):
    """A Parquet file of a dataset.

    :param path: key of the file in the artifact store
    :param part: split part whose rows the file contains: ``train`` or ``test``, or ``data`` if the dataset is not split
    :param rows: number of rows
    :param bytes: size in bytes
    :param sha256: SHA-256 of the file's bytes
    :param content: hash of the values of the rows (:class:`~airflow_mlops.data.datasets.content.ContentHash`); empty in
        manifests of format 1
    """

    path: str
    part: str
    rows: int
    bytes: int
    sha256: str
    content: str = ""

    @property
    def values(self) -> str:
        """Return the hash that identifies the rows: ``content`` or, in manifests of format 1, ``sha256``."""
        return self.content or self.sha256


class ColumnEntry(Model):
    """The name and Arrow type of a dataset's column."""

    name: str
    type: str


class Manifest(Model):
    """The description of a dataset: its files, columns, window, origin and parents.

    ``id`` is a hash of ``name``, ``window``, ``columns``, ``parents``, ``details`` and, for each file, ``part``,
    ``rows`` and ``content``, see :meth:`identity`. It does not depend on the version of Arrow that wrote the files. In
    format 1, ``sha256`` was hashed instead of ``content``. The fields ``owner``, ``description``, ``source``,
    ``provenance``, ``created`` and ``time_column`` do not affect ``id``.

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

    format: int = FORMAT
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

    def identity(self) -> str:
        """Compute the id from the fields that determine it."""
        return fingerprint(
            {
                "name": self.name,
                "window": str(self.window) if self.window else None,
                "columns": [[column.name, column.type] for column in self.columns],
                "files": [[file.part, file.rows, file.values] for file in self.files],
                "parents": self.parents,
                "details": self.details,
            }
        )

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


def parse_manifest(data: bytes, name: str, dataset_id: str, url: str) -> Manifest:
    """Parse the file of a manifest, and check that it is the manifest of a dataset.

    :param data: content of the file
    :param name: name of the dataset whose manifest was read
    :param dataset_id: id of this dataset
    :param url: URL of the file, for error messages
    :raises DatasetFormatError: a newer version of this package wrote the manifest
    :raises DatasetCorruptError: the content is not the manifest of this dataset, or names files elsewhere in the store
    """
    try:
        content = strict_json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _corrupt(name, dataset_id, url, f"it is not valid JSON: {error}") from None
    written_as = content.get("format") if isinstance(content, dict) else None
    if isinstance(written_as, int) and written_as > FORMAT:
        raise DatasetFormatError(
            f"The manifest {url} has format {written_as}, but this version of airflow-mlops reads formats up to {FORMAT}. "
            "Install a newer version where the step runs."
        )
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the content"
        raise _corrupt(name, dataset_id, url, f"{where}: {error.errors()[0]['msg']}") from None
    if (manifest.name, manifest.id) != (name, dataset_id) or manifest.identity() != dataset_id:
        raise _corrupt(name, dataset_id, url, "its content does not have this id")
    if manifest.rows != sum(file.rows for file in manifest.files):
        raise _corrupt(name, dataset_id, url, "its number of rows is not the sum of the rows of its files")
    folder = f"datasets/{name}/files/"
    for file in manifest.files:
        if not file.path.startswith(folder) or ".." in file.path.split("/"):
            raise _corrupt(name, dataset_id, url, f"it names the file {file.path!r}, which is not in {folder}")
    return manifest


def _corrupt(name: str, dataset_id: str, url: str, problem: str) -> DatasetCorruptError:
    return DatasetCorruptError(
        f"The manifest of dataset {name!r} ({dataset_id[:12]}) was changed after it was written ({problem}): {url}. Restore "
        "the file, or run the task that writes the dataset again."
    )
