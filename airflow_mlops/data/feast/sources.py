"""Immutable datasets as the rows of a Feast file source: a folder that holds one Parquet file for each window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.core.errors import DatasetNotFoundError, FeatureStoreError, SchemaError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.data.datasets import Dataset, open_dataset
from airflow_mlops.data.store import ArtifactStore

if TYPE_CHECKING:
    from feast import FeatureStore, FileSource
    from feast.repo_contents import RepoContents

UTC = pa.timestamp("us", "UTC")
# Every file says which dataset it was made from.
_ORIGIN = b"mlops.dataset"


def as_utc(values: Any, what: str) -> Any:
    """A column of points in time, or of ISO 8601 text, as UTC timestamps. What names no zone is UTC.

    :param what: the column and where it is, for the message
    :raises SchemaError: it holds something else
    """
    try:
        if pa.types.is_timestamp(values.type):
            return values.cast(UTC) if values.type.tz else values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_date(values.type):
            return values.cast(pa.timestamp("us")).cast(UTC)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            # Arrow reads text with a zone only as zoned timestamps, and text without one only as the other kind.
            zoned = pc.match_substring_regex(values, r"(Z|[+-]\d\d:?\d\d)$")
            values = pc.if_else(zoned, values, pc.binary_join_element_wise(values, "Z", ""))
            return values.cast(UTC)
        if pa.types.is_null(values.type):
            return values.cast(UTC)
    except pa.ArrowInvalid as error:
        raise SchemaError(f"{what} is not a point in time everywhere: {str(error).splitlines()[0]}.") from None
    raise SchemaError(f"{what} is {values.type}: a timestamp, a date or ISO 8601 text is needed.")


@dataclass(frozen=True)
class SourceColumns:
    """What a file source must hold, as the views over it declare it.

    :param types: Arrow type of every declared column, by name; ``None`` for a join key whose type Feast infers
    :param everything: keep all columns of a dataset, because some view leaves its features to be inferred
    """

    timestamp: str
    created: str | None = None
    types: dict[str, pa.DataType | None] = field(default_factory=dict)
    everything: bool = False


def source_columns(source: FileSource, contents: RepoContents) -> SourceColumns:
    """Collect what all the views over ``source`` declare."""
    from feast.types import from_feast_to_pyarrow_type

    # A view speaks of columns by their names after the source's field mapping.
    inverse = {mapped: name for name, mapped in (source.field_mapping or {}).items()}
    join_keys = {entity.name: entity.join_key for entity in contents.entities}
    types: dict[str, pa.DataType | None] = {}
    everything = False
    for view in (*contents.feature_views, *contents.stream_feature_views):
        if view.batch_source is None or view.batch_source.name != source.name:
            continue
        declared = [*view.features, *view.entity_columns]
        everything |= not view.features
        types.update({inverse.get(item.name, item.name): from_feast_to_pyarrow_type(item.dtype) for item in declared})
        for entity in view.entities:
            key = join_keys.get(entity, entity)
            if key != "__dummy_id":
                types.setdefault(inverse.get(key, key), None)
    timestamp = inverse.get(source.timestamp_field, source.timestamp_field)
    created = source.created_timestamp_column or None
    return SourceColumns(timestamp, inverse.get(created, created) if created else None, types, everything or not types)


class SourceFolder:
    """The folder behind one file source."""

    def __init__(
        self, store: FeatureStore, source: FileSource, columns: SourceColumns, datasets: ArtifactStore
    ) -> None:
        path = type(source).get_uri_for_file_path(repo_path=store.repo_path, uri=source.path)
        if str(path).endswith(".parquet"):
            raise FeatureStoreError(
                f"Source {source.name!r} is one file, {source.path}, which datasets cannot be published to window by "
                "window: let its path be a folder."
            )
        self.name = source.name
        self.columns = columns
        self.files = ArtifactStore(str(path))
        self.datasets = datasets

    def publish(self, dataset: Dataset, valid_from: datetime | None) -> int | None:
        """Let the dataset's rows be those of its window.

        :return: rows written, or ``None`` if they were there already
        :raises SchemaError: the dataset does not have what the views declare
        """
        key = _file_name(dataset, valid_from)
        schema = self._schema(dataset, valid_from)
        present = self._footer(key)
        if present is not None and present.equals(schema) and present.metadata == schema.metadata:
            return None
        # Last, so that a try which dies before leaves this window to be published again.
        self._retype_others(key, schema)
        return self._write(key, dataset, schema, valid_from)

    def _schema(self, dataset: Dataset, valid_from: datetime | None) -> pa.Schema:
        present = dataset.schema
        timestamp, created = self.columns.timestamp, self.columns.created
        where = f"Dataset {dataset.manifest.name}, published as source {self.name!r},"
        if timestamp in present.names and valid_from is not None:
            raise SchemaError(f"{where} has its own times in {timestamp!r}: leave valid_from out.")
        if timestamp not in present.names and valid_from is None:
            raise SchemaError(
                f"{where} has no column {timestamp!r}, the source's timestamp: "
                "for a snapshot whose rows carry no time, say since when it is true with valid_from."
            )
        times = [name for name in (timestamp, created) if name]
        wanted = [name for name in self.columns.types if name not in times]
        if self.columns.everything:
            wanted = [name for name in present.names if name not in times]
        missing = [name for name in (*wanted, *times[1:]) if name not in present.names]
        if missing:
            raise SchemaError(
                f"{where} has no column {', '.join(map(repr, missing))}, which the feature views declare: "
                f"it has {', '.join(present.names)}."
            )
        fields = [pa.field(name, self.columns.types.get(name) or present.field(name).type) for name in wanted]
        origin = f"{dataset.manifest.name}:{dataset.manifest.id}"
        if valid_from is not None:
            origin += f":{valid_from.isoformat()}"
        return pa.schema([*fields, *(pa.field(name, UTC) for name in times)], {_ORIGIN: origin.encode()})

    def _footer(self, key: str) -> pa.Schema | None:
        """Columns and origin of a file that was published before."""
        try:
            with self.files.fs.open(self.files.path(key), "rb") as file:
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
            what = f"Column {column.name!r} of dataset {dataset.manifest.name}, published as source {self.name!r},"
            if column.name == self.columns.timestamp and valid_from is not None:
                arrays.append(pa.repeat(pa.scalar(valid_from, UTC), batch.num_rows))
            elif column.name in times:
                times_read = as_utc(batch.column(column.name), what)
                if times_read.null_count and column.name == self.columns.timestamp:
                    raise SchemaError(f"{what} is empty in {times_read.null_count} rows: a feature needs its time.")
                arrays.append(times_read)
            else:
                found = batch.column(column.name)
                try:
                    arrays.append(found.cast(column.type))
                except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                    raise SchemaError(
                        f"{what} is {found.type} and does not fit {column.type}, which the feature views declare: "
                        f"{str(error).splitlines()[0]}."
                    ) from None
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _retype_others(self, new: str, schema: pa.Schema) -> None:
        """Publish windows again that were written before the views were changed: Feast reads all files as one table."""
        for key in self._keys():
            footer = self._footer(key) if key != new else None
            if footer is None or footer.equals(schema):
                continue
            name, dataset_id, *rest = (footer.metadata or {}).get(_ORIGIN, b"::").decode().split(":", 2)
            valid_from = datetime.fromisoformat(rest[0]) if rest and rest[0] else None
            try:
                dataset = open_dataset(self.datasets, DatasetRef(name=name or "unknown", id=dataset_id, rows=0))
            except DatasetNotFoundError:
                raise FeatureStoreError(
                    f"{self.files.url_of(key)} was written for other columns than source {self.name!r} has now, and "
                    "the dataset it was made from is gone: delete the file, or publish its window again."
                ) from None
            self._write(key, dataset, self._schema(dataset, valid_from), valid_from)

    def _keys(self) -> Sequence[str]:
        return [path.rsplit("/", 1)[-1] for path in self.files.keys("") if path.endswith(".parquet")]


def _file_name(dataset: Dataset, valid_from: datetime | None) -> str:
    if dataset.manifest.window is not None:
        return f"{dataset.manifest.window.key}.parquet"
    return f"{valid_from:%Y%m%dT%H%M%SZ}.parquet" if valid_from is not None else "all.parquet"
