"""Immutable datasets: Parquet files and a manifest that names them by hash.

Layout under the store, for a dataset called NAME::

    datasets/NAME/files/UUID.parquet       data, written first
    datasets/NAME/manifests/ID.json        makes the data a dataset; written last
    datasets/NAME/windows/WINDOW.json      which dataset is the present one for a time window
    datasets/NAME/slots/SLOT.json          which dataset is the present one for something narrower than that

A file without a manifest is invisible, so a writer that dies leaves no half-written dataset.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Provenance
from airflow_mlops.core.errors import DatasetCorruptError, DatasetNotFoundError, DatasetPurgedError, SchemaError
from airflow_mlops.core.fingerprints import fingerprint
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import UtcDatetime, Window
from airflow_mlops.data.store import ArtifactStore, HashingFile

if TYPE_CHECKING:
    import pandas as pd

DATA = "data"
ROW_GROUP_ROWS = 131_072


class FileEntry(Model):
    """One Parquet file of a dataset."""

    path: str
    part: str
    rows: int
    bytes: int
    sha256: str


class ColumnEntry(Model):
    """One column of a dataset."""

    name: str
    type: str


class Manifest(Model):
    """Everything known about a dataset.

    ``id`` is made from ``name``, ``window``, ``columns``, ``parents``, ``details`` and the files' parts, rows
    and hashes. Owner, description, source and provenance describe it and are no part of its identity.

    :param parents: ids of the datasets it was made from
    :param details: what its maker knows about it: label, features, split, counts by expectation, ...
    :param source: where the rows came from, without credentials
    :param created: when it was first written, UTC
    :param purged: when retention deleted its files; ``None`` while they are there
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
        parts: dict[str, int] = {}
        for file in self.files:
            parts[file.part] = parts.get(file.part, 0) + file.rows
        return DatasetRef(name=self.name, id=self.id, rows=self.rows, window=self.window, parts=parts)


def _manifest_key(name: str, dataset_id: str) -> str:
    return f"datasets/{name}/manifests/{dataset_id}.json"


def _window_key(name: str, window: Window) -> str:
    return f"datasets/{name}/windows/{window.key}.json"


def _slot_key(name: str, slot: str) -> str:
    return f"datasets/{name}/slots/{slot}.json"


class Dataset:
    """A dataset opened for reading. Every file's hash is checked once, before its first byte is used."""

    def __init__(self, store: ArtifactStore, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self._verified: set[str] = set()

    @property
    def ref(self) -> DatasetRef:
        return self.manifest.ref

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema, from the first file."""
        file = self._open(self.manifest.files[0])
        with file:
            return pq.read_schema(file)

    def files(self, part: str | None = None) -> list[FileEntry]:
        """The files of ``part``, or all.

        :raises DatasetNotFoundError: there is no such part
        :raises DatasetPurgedError: retention deleted them
        """
        if self.manifest.purged is not None:
            window = f" of {self.manifest.window.label}" if self.manifest.window else ""
            raise DatasetPurgedError(
                f"Dataset {self.manifest.name} ({self.manifest.id[:12]}){window} was deleted by retention on "
                f"{self.manifest.purged:%Y-%m-%d}: only its manifest is left; what is needed of it has to be made again."
            )
        files = [file for file in self.manifest.files if part is None or file.part == part]
        if not files:
            parts = ", ".join(sorted({file.part for file in self.manifest.files}))
            raise DatasetNotFoundError(f"Dataset {self.manifest.name} has no part {part!r}: it has {parts}.")
        return files

    def verify(self, part: str | None = None) -> None:
        """Compare every file with its hash.

        :raises DatasetCorruptError: a file is missing or was changed
        """
        for file in self.files(part):
            if file.path in self._verified:
                continue
            name, dataset_id = self.manifest.name, self.manifest.id[:12]
            try:
                found = self.store.sha256(file.path)
            except FileNotFoundError as error:
                raise DatasetCorruptError(
                    f"Dataset {name} ({dataset_id}) has lost {self.store.url_of(file.path)}: "
                    "restore the file, or clear the task that made the dataset to write it again."
                ) from error
            if found != file.sha256:
                raise DatasetCorruptError(
                    f"Dataset {name} ({dataset_id}) was changed after it was written: {self.store.url_of(file.path)} "
                    f"has SHA-256 {found[:12]}…, its manifest says {file.sha256[:12]}…. "
                    "Restore the file, or delete it and clear the task that made the dataset."
                )
            self._verified.add(file.path)

    def _open(self, file: FileEntry) -> Any:
        self.verify(file.part)
        return self.store.fs.open(self.store.path(file.path), "rb")

    def batches(
        self, part: str | None = None, columns: Sequence[str] | None = None, batch_rows: int = 65_536
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in batches of at most ``batch_rows``; memory stays flat however large the dataset.

        :raises SchemaError: a column that was asked for is not there
        """
        self.require(columns or ())
        for file in self.files(part):
            with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
                yield from parquet.iter_batches(batch_rows, columns=list(columns) if columns is not None else None)

    def row_groups(self, part: str | None = None) -> list[tuple[FileEntry, int]]:
        """Where the rows lie: each file, and the number of each row group in it."""
        found = []
        for file in self.files(part):
            with self._open(file) as handle:
                found += [(file, number) for number in range(pq.read_metadata(handle).num_row_groups)]
        return found

    def read_row_group(self, place: tuple[FileEntry, int], columns: Sequence[str]) -> pa.RecordBatch:
        """The rows of one row group."""
        file, number = place
        with self._open(file) as handle, pq.ParquetFile(handle, pre_buffer=False) as parquet:
            table = parquet.read_row_group(number, columns=list(columns)).combine_chunks()
        batches = table.to_batches()
        return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)

    def table(self, part: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one Arrow table."""
        self.require(columns or ())
        tables = []
        for file in self.files(part):
            with self._open(file) as handle:
                tables.append(pq.read_table(handle, columns=list(columns) if columns is not None else None))
        return pa.concat_tables(tables)

    def to_pandas(self, part: str | None = None, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All rows as a pandas DataFrame."""
        return self.table(part, columns).to_pandas()

    def require(self, columns: Iterable[str]) -> None:
        """:raises SchemaError: naming the columns that are missing"""
        present = [column.name for column in self.manifest.columns]
        missing = [column for column in columns if column not in present]
        if missing:
            raise SchemaError(
                f"Dataset {self.manifest.name} has no column {', '.join(map(repr, missing))}: "
                f"it has {', '.join(present)}."
            )


class DatasetWriter:
    """Writes one dataset; use it as a context manager and call :meth:`commit` at the end of the block.

    Leaving the block without a commit removes what was written.

    :param folder: where the files go below the folder ``files``, such as ``window=2013-04``
    """

    def __init__(self, store: ArtifactStore, name: str, folder: str = "") -> None:
        self.store = store
        self.name = name
        self._folder = "/".join(filter(None, [f"datasets/{name}/files", folder]))
        self._open: dict[str, tuple[str, HashingFile, pq.ParquetWriter, ExitStack]] = {}
        self._rows: dict[str, int] = {}
        self._schema: pa.Schema | None = None
        self._written: list[str] = []
        self._committed = False

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, writer, files in self._open.values():
            try:
                if not self._committed:
                    writer.close()
            except Exception:  # noqa: BLE001, S110 - what is abandoned need not be closed properly
                pass
            finally:
                # An error makes the store drop the temporary file.
                files.__exit__(RuntimeError, RuntimeError("abandoned"), None)
        if not self._committed:
            for key in self._written:
                self.store.delete(key)

    def write(self, data: pa.RecordBatch | pa.Table, part: str = DATA) -> None:
        """Append rows to ``part``.

        :raises SchemaError: the columns or types differ from those of the rows before
        """
        if self._schema is None:
            self._schema = data.schema.remove_metadata()
        elif not data.schema.equals(self._schema):
            raise SchemaError(f"Dataset {self.name}: {schema_difference(self._schema, data.schema)}.")
        if part not in self._open:
            self._start(part)
        writer = self._open[part][2]
        if isinstance(data, pa.Table):
            writer.write_table(data, row_group_size=ROW_GROUP_ROWS)
        else:
            writer.write_batch(data, row_group_size=ROW_GROUP_ROWS)
        self._rows[part] += data.num_rows

    def _start(self, part: str) -> None:
        key = f"{self._folder}/{uuid.uuid4().hex}.parquet"
        files = ExitStack()
        file = files.enter_context(self.store.create(key))
        # A column of mostly different values gives its dictionary up early: half the time, and smaller files.
        writer = pq.ParquetWriter(
            file, self._schema, compression="zstd", compression_level=1, dictionary_pagesize_limit=128 << 10
        )
        self._open[part] = (key, file, writer, files)
        self._rows[part] = 0

    def commit(
        self,
        *,
        window: Window | None = None,
        owner: str = "",
        description: str = "",
        source: dict[str, Any] | None = None,
        parents: Iterable[DatasetRef] = (),
        details: dict[str, Any] | None = None,
        provenance: Provenance | None = None,
        slots: Iterable[str] = (),
    ) -> tuple[Manifest, bool]:
        """Make what was written a dataset and the present one for its window.

        :param slots: for what else it becomes the present one, see :func:`present_in`
        :return: its manifest, and whether the same dataset was there already (then nothing new is kept)
        """
        if self._schema is None:
            raise SchemaError(f"Dataset {self.name} was given no rows and no schema: there is nothing to write.")
        entries = []
        for part, (key, file, writer, files) in self._open.items():
            writer.close()
            files.close()
            self._written.append(key)
            entries.append(FileEntry(path=key, part=part, rows=self._rows[part], bytes=file.bytes, sha256=file.sha256))
        self._open = {}
        identity = {
            "name": self.name,
            "window": str(window) if window else None,
            "columns": [[field.name, str(field.type)] for field in self._schema],
            "files": [[entry.part, entry.rows, entry.sha256] for entry in entries],
            "parents": [parent.id for parent in parents],
            "details": details or {},
        }
        manifest = Manifest(
            id=fingerprint(identity),
            name=self.name,
            owner=owner,
            description=description,
            source=source or {},
            window=window,
            columns=[ColumnEntry(name=field.name, type=str(field.type)) for field in self._schema],
            rows=sum(self._rows.values()),
            files=entries,
            parents=identity["parents"],
            details=details or {},
            provenance=provenance or Provenance(),
            created=datetime.now(timezone.utc),
        )
        existing = _intact(self.store, manifest)
        if existing is not None:
            manifest = existing
        else:
            self.store.write_json(_manifest_key(self.name, manifest.id), manifest.model_dump(mode="json"))
            self._committed = True
        present = {"id": manifest.id, "window": str(window) if window else None}
        pointers = [_slot_key(self.name, slot) for slot in slots]
        for key in (*pointers, *([_window_key(self.name, window)] if window else ())):
            if _present_id(self.store, key) != manifest.id:
                self.store.write_json(key, present)
        return manifest, existing is not None


def _intact(store: ArtifactStore, manifest: Manifest) -> Manifest | None:
    """The same dataset as it was written before, if all its bytes are still right."""
    try:
        dataset = open_dataset(store, manifest.ref)
        dataset.verify()
    except (DatasetNotFoundError, DatasetCorruptError, DatasetPurgedError):
        return None
    return dataset.manifest


def _present_id(store: ArtifactStore, key: str) -> str | None:
    try:
        return str(store.read_json(key)["id"])
    except FileNotFoundError:
        return None


def present_in(store: ArtifactStore, name: str, slot: str) -> Dataset | None:
    """The dataset of ``name`` that was last committed with ``slot``, if any was."""
    found = _present_id(store, _slot_key(name, slot))
    return open_dataset(store, DatasetRef(name=name, id=found, rows=0)) if found else None


def slots(store: ArtifactStore, name: str) -> dict[str, Window | None]:
    """The slots of ``name``, and the window of what is present in each."""
    found = {}
    for key in store.keys(f"datasets/{name}/slots"):
        window = store.read_json(key)["window"]
        slot = key.rpartition("/")[2].removesuffix(".json")
        found[slot] = Window.model_validate(window) if window else None
    return found


def manifests(store: ArtifactStore, name: str) -> Iterator[Manifest]:
    """Every dataset that was ever committed as ``name``, in no order."""
    for key in store.keys(f"datasets/{name}/manifests"):
        yield Manifest.model_validate(store.read_json(key))


def tombstone(store: ArtifactStore, manifest: Manifest, purged: datetime) -> None:
    """Say in its manifest that the files of a dataset are gone, or about to go: from now on nobody reads them."""
    mark = manifest.model_copy(update={"purged": purged})
    store.write_json(_manifest_key(manifest.name, manifest.id), mark.model_dump(mode="json"))


def schema_difference(expected: pa.Schema, found: pa.Schema) -> str:
    """Say in one phrase how two schemas differ."""
    expected_types = {field.name: str(field.type) for field in expected}
    found_types = {field.name: str(field.type) for field in found}
    problems = [f"column {name!r} is gone" for name in expected_types if name not in found_types]
    problems += [f"column {name!r} is new" for name in found_types if name not in expected_types]
    problems += [
        f"column {name!r} was {expected_types[name]} and is now {found_types[name]}"
        for name in expected_types
        if name in found_types and expected_types[name] != found_types[name]
    ]
    return ", ".join(problems) or "the order of the columns changed"


def open_dataset(store: ArtifactStore, ref: DatasetRef) -> Dataset:
    """Open the dataset that ``ref`` points at.

    :raises DatasetNotFoundError: it is not in this store
    """
    try:
        manifest = Manifest.model_validate(store.read_json(_manifest_key(ref.name, ref.id)))
    except FileNotFoundError as error:
        raise DatasetNotFoundError(
            f"Dataset {ref.name} ({ref.id[:12]}) is not in the artifact store {store.url}: "
            "check that [mlops] artifacts names the same store everywhere."
        ) from error
    return Dataset(store, manifest)


def neighbour(store: ArtifactStore, name: str, window: Window) -> Manifest | None:
    """The present dataset of the last window of ``name`` before ``window``, or else of the first one after it."""
    own = _window_key(name, window)
    keys = [key for key in store.keys(f"datasets/{name}/windows") if key != own]
    if not keys:
        return None
    # Keys of windows sort by time.
    key = max((key for key in keys if key < own), default=keys[0])
    return open_dataset(store, DatasetRef(name=name, id=store.read_json(key)["id"], rows=0)).manifest


def find_datasets(store: ArtifactStore, name: str, within: Window | None = None) -> list[Dataset]:
    """The present dataset of every window of ``name`` that lies inside ``within``, ordered by time.

    What retention deleted is among them where ``within`` asks for it, and cannot be read; without ``within`` it is not.

    :raises DatasetNotFoundError: there is none
    :raises SchemaError: two windows overlap
    """
    found: list[tuple[Window, Dataset]] = []
    for key in store.keys(f"datasets/{name}/windows"):
        pointer = store.read_json(key)
        window = Window.model_validate(pointer["window"])
        if within is None or within.contains(window):
            found.append((window, open_dataset(store, DatasetRef(name=name, id=pointer["id"], rows=0))))
    if not found:
        raise DatasetNotFoundError(
            f"There is no dataset {name!r}{f' in {within.label}' if within else ''} in the artifact store {store.url}: "
            "ingest that window first."
        )
    if within is None:
        found = [item for item in found if item[1].manifest.purged is None] or found
    found.sort(key=lambda item: (item[0].start, item[0].end))
    for (first, _), (second, _) in zip(found, found[1:], strict=False):
        if first.overlaps(second):
            raise SchemaError(
                f"Dataset {name!r} has overlapping windows {first.label} and {second.label}: "
                "rows would count twice. Ask for a window that holds only one of them."
            )
    return [dataset for _, dataset in found]
