"""Publishes datasets as the rows of a Feast file source. The source is a folder with one Parquet file per window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import DatasetNotFoundError, FeatureStoreError, SchemaError, named
from airflow_mlops.core.moments import parse
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window, missing
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.datasets.pointers import was_current_after
from airflow_mlops.data.feast.request import arrow_type
from airflow_mlops.data.moments import UTC, as_utc
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.data.types import cast

if TYPE_CHECKING:
    from feast import FeatureStore, FileSource
    from feast.repo_contents import RepoContents

# The key of a Parquet file's metadata that contains the dataset from which the file was written.
_ORIGIN = b"mlops.dataset"


@dataclass(frozen=True)
class SourceColumns:
    """The columns of a file source that the feature views of the source declare.

    :param timestamp: column with the event time of each row
    :param created: column with the creation time of each row; ``None`` if the source declares no such column
    :param types: Arrow type by declared column; ``None`` for a join key whose type Feast infers from the files
    :param everything: whether all columns of a dataset are published, because a view declares no features
    """

    timestamp: str
    created: str | None = None
    types: dict[str, pa.DataType | None] = field(default_factory=dict)
    everything: bool = False


def source_columns(source: FileSource, contents: RepoContents) -> SourceColumns:
    """Collect the columns that the feature views of ``source`` declare.

    :param source: the file source
    :param contents: the definitions of the Feast repository
    """
    # A view refers to columns by the names that its source's field mapping defines.
    inverse = {mapped: name for name, mapped in (source.field_mapping or {}).items()}
    join_keys = {entity.name: entity.join_key for entity in contents.entities}
    types: dict[str, pa.DataType | None] = {}
    everything = False
    for view in (*contents.feature_views, *contents.stream_feature_views):
        if view.batch_source is None or view.batch_source.name != source.name:
            continue
        declared = [*view.features, *view.entity_columns]
        everything |= not view.features
        types.update(
            {inverse.get(item.name, item.name): arrow_type(item.dtype, item.name, view.name) for item in declared}
        )
        for entity in view.entities:
            key = join_keys.get(entity, entity)
            if key != "__dummy_id":
                types.setdefault(inverse.get(key, key), None)
    timestamp = inverse.get(source.timestamp_field, source.timestamp_field)
    created = source.created_timestamp_column or None
    return SourceColumns(timestamp, inverse.get(created, created) if created else None, types, everything or not types)


class SourceFolder:
    """The folder of a Feast file source, to which datasets are published.

    :param store: Feast repository
    :param source: file source
    :param columns: columns that the feature views of the source declare
    :param datasets: artifact store with the datasets to publish
    :raises FeatureStoreError: the path of the source is a single file
    """

    def __init__(
        self, store: FeatureStore, source: FileSource, columns: SourceColumns, datasets: ArtifactStore
    ) -> None:
        path = type(source).get_uri_for_file_path(repo_path=store.repo_path, uri=source.path)
        if str(path).endswith(".parquet"):
            raise FeatureStoreError(
                f"The path of source {source.name!r} is a single file, {source.path}, but publishing writes one file "
                "per window. Change the path of the source to a folder."
            )
        self.name = source.name
        self.columns = columns
        self.files = ArtifactStore(str(path))
        self.datasets = datasets

    def publish(self, dataset: Dataset, valid_from: datetime | None) -> int | None:
        """Write the dataset to the file of its window. The file replaces rows that were published for the same window.

        :param dataset: the dataset
        :param valid_from: for a snapshot without a timestamp column, the event time of all rows; otherwise ``None``
        :return: number of rows written; ``None`` if the same dataset is already published
        :raises SchemaError: the dataset does not have the columns or types that the feature views declare
        :raises FeatureStoreError: the columns of another published file must be changed, but its dataset no longer
            exists
        """
        key = _file_name(dataset, valid_from)
        schema = self._schema(dataset, valid_from)
        present = self._footer(key)
        if present is not None and present.equals(schema) and present.metadata == schema.metadata:
            return None
        # The new file is written last. If the task fails earlier, its retry publishes this window again.
        self._retype_others(key, schema)
        return self._write(key, dataset, schema, valid_from)

    def newest(self, dataset: Dataset, valid_from: datetime | None) -> Dataset:
        """Return the dataset to publish for a window.

        If the dataset that is already published for this window became current later than ``dataset``, that dataset is
        returned, otherwise ``dataset``. This happens if a user clears the task of an earlier run, whose dataset was
        replaced in the meantime.

        :param dataset: the dataset of the task
        :param valid_from: as in :meth:`publish`
        """
        footer = self._footer(_file_name(dataset, valid_from))
        name, other, *_ = ((footer.metadata or {}) if footer else {}).get(_ORIGIN, b":").decode().split(":", 2)
        if name != dataset.manifest.name or not was_current_after(self.datasets, dataset.manifest, other):
            return dataset
        return open_dataset(self.datasets, DatasetRef(name=name, id=other, rows=0))

    def replaced_by(self, datasets: Sequence[Dataset]) -> list[str]:
        """Return the files of other windows that ``datasets`` replace.

        A file is replaced if the windows of ``datasets`` cover the whole window of the file, for example all days of
        the file's month.

        :param datasets: the datasets to publish
        :return: keys of the files
        :raises FeatureStoreError: the windows of ``datasets`` cover a file's window only partly, so rows would be
            published twice
        """
        windows = [dataset.window for dataset in datasets if dataset.window is not None]
        found = []
        for key in self._keys():
            window = Window.from_file_name(key.removesuffix(".parquet"))
            if window is None or window in windows or not any(window.overlaps(other) for other in windows):
                continue
            if missing(window, windows):
                raise FeatureStoreError(
                    f"The source {self.name!r} has the rows of {window.label} in {self.files.url_of(key)}, and only a part "
                    "of this window is published now, so the source would contain rows twice. Publish windows that "
                    "cover all of this window, or delete the file."
                )
            found.append(key)
        return found

    def remove(self, keys: Sequence[str]) -> None:
        """Delete files that :meth:`replaced_by` returned."""
        for key in keys:
            self.files.delete(key)

    def _schema(self, dataset: Dataset, valid_from: datetime | None) -> pa.Schema:
        present = dataset.schema
        timestamp, created = self.columns.timestamp, self.columns.created
        where = f"Dataset {dataset.manifest.name!r}, published as source {self.name!r},"
        if timestamp in present.names and valid_from is not None:
            raise SchemaError(
                f"{where} has the timestamp column {timestamp!r}, so its rows already have times. Omit `valid_from`."
            )
        if timestamp not in present.names and valid_from is None:
            raise SchemaError(
                f"{where} has no column {timestamp!r}, the timestamp column of the source. "
                "If the dataset is a snapshot without times, set `valid_from` to the time from which its rows are "
                "valid."
            )
        times = [name for name in (timestamp, created) if name]
        wanted = [name for name in self.columns.types if name not in times]
        if self.columns.everything:
            wanted = [name for name in present.names if name not in times]
        absent = [name for name in (*wanted, *times[1:]) if name not in present.names]
        if absent:
            raise SchemaError(
                f"{where} has no {named('column', absent)}, which the feature views declare. "
                f"Add the missing columns to the dataset, or correct the feature views. The columns of the dataset are: "
                f"{', '.join(present.names)}."
            )
        fields = [
            pa.field(name, self.columns.types.get(name) or _without_decimals(present.field(name).type))
            for name in wanted
        ]
        origin = f"{dataset.manifest.name}:{dataset.manifest.id}"
        if valid_from is not None:
            origin += f":{valid_from.isoformat()}"
        return pa.schema([*fields, *(pa.field(name, UTC) for name in times)], {_ORIGIN: origin.encode()})

    def _footer(self, key: str) -> pa.Schema | None:
        """Read the schema and origin of a published file. Return ``None`` if there is no file."""
        try:
            with self.files.open(key) as file:
                found = pq.read_schema(file)
        except FileNotFoundError:
            return None
        origin = (found.metadata or {}).get(_ORIGIN)
        return found.with_metadata({_ORIGIN: origin} if origin else None)

    def _write(self, key: str, dataset: Dataset, schema: pa.Schema, valid_from: datetime | None) -> int:
        rows = 0
        with self.files.create(key) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            columns = [name for name in schema.names if name in dataset.schema.names]
            for batch in dataset.batches(columns=columns):
                writer.write_batch(self._conform(batch, dataset, schema, valid_from))
                rows += batch.num_rows
        return rows

    def _conform(
        self, batch: pa.RecordBatch, dataset: Dataset, schema: pa.Schema, valid_from: datetime | None
    ) -> pa.RecordBatch:
        times = {self.columns.timestamp, self.columns.created}
        arrays = []
        for column in schema:
            what = f"Column {column.name!r} of dataset {dataset.manifest.name!r}, published as source {self.name!r},"
            if column.name == self.columns.timestamp and valid_from is not None:
                arrays.append(pa.repeat(pa.scalar(valid_from, UTC), batch.num_rows))
            elif column.name in times:
                times_read = as_utc(batch.column(column.name), what, round_up=True)
                if times_read.null_count and column.name == self.columns.timestamp:
                    raise SchemaError(
                        f"{what} is null in {counted(times_read.null_count, 'row')}, but every row needs an event time. Drop "
                        "these rows from the dataset, or correct their event times."
                    )
                arrays.append(times_read)
            else:
                found = batch.column(column.name)
                try:
                    arrays.append(cast(found, column.type, what))
                except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
                    raise SchemaError(
                        f"{what} has the type {found.type}, which cannot be converted to the type {column.type} that "
                        f"the feature views declare: {str(error).splitlines()[0]}. Correct the feature views or the "
                        "dataset."
                    ) from None
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _retype_others(self, new: str, schema: pa.Schema) -> None:
        """Rewrite the published files whose columns or types differ from ``schema``, except the file ``new``.

        Feast reads all files as one table. Files differ if they were written before the feature views were changed.
        """
        for key in self._keys():
            footer = self._footer(key) if key != new else None
            if footer is None or footer.equals(schema):
                continue
            name, dataset_id, *rest = (footer.metadata or {}).get(_ORIGIN, b"::").decode().split(":", 2)
            valid_from = parse(rest[0]) if rest and rest[0] else None
            try:
                dataset = open_dataset(self.datasets, DatasetRef(name=name or "unknown", id=dataset_id, rows=0))
            except DatasetNotFoundError:
                why = f"dataset {name!r}, from which the file was written, is no longer in the artifact store"
                raise FeatureStoreError(
                    f"The columns of {self.files.url_of(key)} differ from those that the feature views of source "
                    f"{self.name!r} declare now. The file cannot be rewritten, because "
                    f"{why if name else 'the file does not name the dataset from which it was written'}. Delete the "
                    "file, or run MaterializeFeaturesOperator for the window of the file again."
                ) from None
            self._write(key, dataset, self._schema(dataset, valid_from), valid_from)

    def _keys(self) -> Sequence[str]:
        return [path.rsplit("/", 1)[-1] for path in self.files.keys("") if path.endswith(".parquet")]


def _without_decimals(kind: pa.DataType) -> pa.DataType:
    """Return the type for publishing a column that no feature view declares. Feast has no decimals."""
    if pa.types.is_decimal(kind):
        return pa.float64() if kind.scale > 0 else pa.int64()
    return kind


def _file_name(dataset: Dataset, valid_from: datetime | None) -> str:
    if dataset.manifest.window is not None:
        return f"{dataset.manifest.window.key}.parquet"
    return f"{valid_from:%Y%m%dT%H%M%SZ}.parquet" if valid_from is not None else "all.parquet"
