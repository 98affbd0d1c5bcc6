"""Reads the Parquet files of a Feast file source as rows that DuckDB can join."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from airflow_mlops.core.errors import FeatureStoreError, SchemaError, named, one_line
from airflow_mlops.data.feast.request import ViewRequest
from airflow_mlops.data.int96 import Overflow, find_overflow
from airflow_mlops.data.moments import as_utc, is_text, is_time
from airflow_mlops.data.relational import quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

OLDEST = -(2**63)
"""The value for a null creation time. It is earlier than every other creation time."""

# The latest time in nanoseconds since 1970 that fits into 64 bits.
_MOST_NANOSECONDS = 2**63 - 1
# Columns that DuckDB adds to the rows of a file.
_PLACE = ("file_index", "file_row_number", "filename")
_READ_ROWS = 131_072
# More than the number of rows in any file.
_FILE = 2**40
PARQUET = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit="us"))
"""The format of the files. Spark and Hive write times as INT96. In nanoseconds, the year 9999 would not fit into 64 bits."""


@dataclass(frozen=True)
class Span:
    """The range of feature timestamps that a point-in-time join to a set of events can use.

    Times are in microseconds since 1970, both ends included.

    :param first: earliest time; ``None`` if the feature view has no time to live (TTL)
    :param last: latest time
    """

    first: int | None
    last: int


@dataclass(frozen=True)
class ParquetSource:
    """The Parquet files of one feature view.

    :param request: feature view and features to read
    :param dataset: Parquet files as an Arrow dataset
    :param names: name of the column in the files, by name of the join key or feature
    :param time: column with the event time of each row
    :param created: column with the creation time of each row; ``None`` if the source declares no such column
    :param times_in_keys: join keys that are points in time and have different types in the files and in the events
    """

    request: ViewRequest
    dataset: ds.Dataset
    names: dict[str, str]
    time: str
    created: str | None
    times_in_keys: frozenset[str] = frozenset()

    def relation(self, connection: DuckDBPyConnection, number: int, span: Span) -> tuple[str, dict[str, Any]]:
        """Build the SQL query for the rows within ``span``.

        The columns of the query are the join keys ``k0``, ``k1``, ..., the features ``f0``, ``f1``, ..., the event time
        ``t``, the creation time ``created`` if the source declares such a column, and ``place``. Both times are in
        microseconds since 1970. ``place`` is an integer that orders the rows by file path and by position in the file.

        DuckDB reads local files itself. Files that DuckDB and Arrow would read differently are read by Arrow and copied
        into a table of the database.

        :param connection: the DuckDB connection
        :param number: number of this source, which makes names unique in a query with several sources
        :return: the SQL query and its parameters
        :raises FeatureStoreError: the files cannot be read
        :raises SchemaError: a value of a time column is not a point in time, or an INT96 timestamp is too far from 1970
            for 64-bit microseconds
        """
        try:
            self._check_int96()
            return self._relation(connection, number, span)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.request, error) from error

    def _relation(self, connection: DuckDBPyConnection, number: int, span: Span) -> tuple[str, dict[str, Any]]:
        if self.is_readable_by_duckdb():
            return self._scan(number, span)
        name = f"source_{number}"
        for index, batch in enumerate(self._batches(span)):
            connection.register("batch", batch)
            verb = f"INSERT INTO {name}" if index else f"CREATE TABLE {name} AS"
            connection.execute(f"{verb} SELECT * FROM batch")  # noqa: S608 - the names are generated here
            connection.unregister("batch")
        return f"SELECT * FROM {name}", {}  # noqa: S608

    def rows(self, span: Span) -> int:
        """Return the number of rows in the row groups that may have rows within ``span``, from the footers of the files.

        :raises FeatureStoreError: the files cannot be read
        """
        condition = within(self.dataset.schema.field(self.time), span)
        try:
            found = (
                fragment if condition is None else fragment.subset(condition, schema=self.dataset.schema)
                for fragment in self.dataset.get_fragments()
            )
            return sum(group.num_rows for fragment in found for group in fragment.row_groups)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(self.request, error) from error

    def _check_int96(self) -> None:
        for path, found in _overflows(self.dataset, self.columns, "us"):
            raise SchemaError(
                f"Column {found.column!r} of {path}, in the source of feature view {self.request.view.name!r}, contains a "
                f"time in row {found.row:,} that is outside the years 1 to 9999: {found.seconds} seconds since 1970. "
                "Correct it in the source."
            )

    def is_readable_by_duckdb(self) -> bool:
        """Return whether DuckDB would read the same columns and values from the files as Arrow."""
        schema, columns = self.dataset.schema, self.columns
        folded = [name.casefold() for name in schema.names]
        return (
            not self.times_in_keys
            and isinstance(self.dataset, ds.FileSystemDataset)
            and isinstance(self.dataset.filesystem, LocalFileSystem)
            # DuckDB expands patterns in paths, and ignores case in names.
            and not any(character in path for path in self.dataset.files for character in "*?[{")
            and len(set(folded)) == len(folded)
            and not set(folded) & set(_PLACE)
            and all(_is_plain(schema.field(name).type) for name in self.names.values())
            and all(is_time(schema.field(name).type) for name in (self.time, self.created) if name)
            and all(_same_types(schema, fragment.physical_schema, columns) for fragment in self.dataset.get_fragments())
        )

    @property
    def columns(self) -> list[str]:
        """Return the columns to read from the files: join keys, features and times."""
        return [*self.names.values(), self.time, *([self.created] if self.created else [])]

    def _scan(self, number: int, span: Span) -> tuple[str, dict[str, Any]]:
        kind = self.dataset.schema.field(self.time).type
        time = quoted(self.time)
        columns = [f"{quoted(column)} AS {alias}" for alias, column in self._values()]
        columns.append(f"{_micros(time, kind)} AS t")
        if self.created:
            micros = _micros(quoted(self.created), self.dataset.schema.field(self.created).type)
            columns.append(f"coalesce({micros}, {OLDEST}) AS created")
        columns.append(f"file_index::BIGINT * {_FILE} + file_row_number AS place")
        moment = "make_timestamptz" if getattr(kind, "tz", None) else "make_timestamp"
        conditions = [f"{time} IS NOT NULL"]
        parameters: dict[str, Any] = {f"files_{number}": self.dataset.files}
        for bound, operator, limit in (("first", ">=", span.first), ("last", "<=", span.last)):
            if limit is not None and not (_is_nanoseconds(kind) and abs(limit) > _MOST_NANOSECONDS // 1000):
                conditions.append(f"{time} {operator} {moment}(${bound}_{number}::BIGINT)")
                parameters[f"{bound}_{number}"] = limit
        sql = f"""
            SELECT {", ".join(columns)}
            FROM read_parquet($files_{number}, hive_partitioning = false)
            WHERE {" AND ".join(conditions)}"""  # noqa: S608 - quoted names; values are parameters
        return sql, parameters

    def _batches(self, span: Span) -> Iterable[pa.RecordBatch]:
        """Read the rows within ``span`` with Arrow. Yield at least one batch, which may be empty."""
        dataset, row = self.dataset, 0
        scanner = dataset.scanner(
            columns=self.columns,
            filter=within(dataset.schema.field(self.time), span),
            batch_size=_READ_ROWS,
            fragment_readahead=1,
        )
        where = f"in the source of feature view {self.request.view.name!r}"
        empty = pa.RecordBatch.from_pylist([], scanner.projected_schema)
        for batch in chain([empty], scanner.to_batches()):
            rows = np.arange(row, row + batch.num_rows)
            row += batch.num_rows
            time = as_utc(batch[self.time], f"{self.time!r} {where}", round_up=True).cast(pa.int64())
            columns = {alias: decoded(batch[column]) for alias, column in self._values()}
            for number, key in enumerate(self.request.join_keys):
                if key in self.times_in_keys:
                    columns[f"k{number}"] = as_utc(batch[self.names[key]], f"Join key {key!r} {where}")
            columns["t"] = time
            if self.created:
                created = as_utc(batch[self.created], f"{self.created!r} {where}", round_up=True)
                columns["created"] = created.cast(pa.int64()).fill_null(OLDEST)
            columns["place"] = rows
            yield pa.RecordBatch.from_pydict(columns).filter(pc.is_valid(time))

    def _values(self) -> list[tuple[str, str]]:
        """Return pairs of a column's name in the query and its name in the files, for join keys and features."""
        keys = [(f"k{number}", self.names[name]) for number, name in enumerate(self.request.join_keys)]
        return [*keys, *((f"f{number}", self.names[name]) for number, name in enumerate(self.request.features))]


def is_parquet(store: FeatureStore, request: ViewRequest) -> bool:
    """Return whether DuckDB joins the feature view.

    This is the case if the source of the view consists of Parquet files and the offline store of the repository is
    Dask.
    """
    from feast import FileSource
    from feast.data_format import ParquetFormat

    source = request.view.batch_source
    return (
        store.config.offline_store.type in ("dask", "file")
        and isinstance(source, FileSource)
        and (source.file_format is None or isinstance(source.file_format, ParquetFormat))
    )


def open_source(store: FeatureStore, request: ViewRequest, events: pa.Schema) -> ParquetSource:
    """Open the Parquet files of a feature view, and check that they have the required columns.

    :param store: the Feast repository
    :param request: feature view and features to read
    :param events: schema of the events
    :raises FeatureStoreError: the files cannot be read, a column is absent or has decimals of more than 38 digits, or a
        join key has different types in the files and in the events
    """
    source = request.view.batch_source
    columns = _columns(source)
    dataset = open_files(store, request)
    created = source.created_timestamp_column
    found = ParquetSource(
        request,
        dataset,
        {name: columns.get(name, name) for name in (*request.join_keys, *request.features)},
        columns.get(source.timestamp_field, source.timestamp_field),
        columns.get(created, created) if created else None,
    )
    present = dataset.schema.names
    missing = [name for name in dict.fromkeys(found.columns) if name not in present]
    if missing:
        raise FeatureStoreError(
            f"The source of feature view {request.view.name!r}, {source.path}, has no "
            f"{named('column', missing)}. Correct the feature view or the source. The columns of the source are: "
            f"{', '.join(present)}."
        )
    for column in dict.fromkeys(found.names.values()):
        if _has_decimal256(kind := dataset.schema.field(column).type):
            raise FeatureStoreError(
                f"Column {column!r} in the source of feature view {request.view.name!r}, {source.path}, is {kind}, but "
                "DuckDB joins decimals of at most 38 digits. Convert the column to decimal128 or to double."
            )
    times_in_keys = set()
    for key, column in request.join_keys.items():
        own, other = dataset.schema.field(found.names[key]).type, events.field(column).type
        if _are_times(own, other) and not own.equals(other):
            times_in_keys.add(key)
        if not _comparable(own, other):
            raise FeatureStoreError(
                f"Join key {column!r} is {other} in the events, but {own} in the source of feature view "
                f"{request.view.name!r}. Convert one of the two columns, so that both have the same type."
            )
    return replace(found, times_in_keys=frozenset(times_in_keys))


def require_timestamps(store: FeatureStore, request: ViewRequest) -> None:
    """Check that the event times of a Parquet source are timestamps.

    Feast can materialize features only with this type. Files that cannot be read are not checked, because a retry may
    find the files.

    :param store: the Feast repository
    :param request: the feature view
    :raises FeatureStoreError: the event times have a different type
    """
    source = request.view.batch_source
    name = _columns(source).get(source.timestamp_field, source.timestamp_field)
    try:
        schema = open_files(store, request).schema
    except FeatureStoreError:
        return
    if name in schema.names and not pa.types.is_timestamp(schema.field(name).type):
        raise FeatureStoreError(
            f"The event time {name!r} in the source of feature view {request.view.name!r}, {source.path}, has the type "
            f"{schema.field(name).type}, but Feast materializes only timestamps. Convert the column, or ingest the files "
            "and publish the dataset with `sources`, which converts the column."
        )


def require_nanoseconds(store: FeatureStore, request: ViewRequest) -> None:
    """Check that the INT96 timestamps of a Parquet source fit into 64-bit nanoseconds.

    Feast materializes INT96 timestamps as nanoseconds, without a check for overflow. Files that cannot be read are not
    checked, because a retry may find the files.

    :param request: the feature view
    :raises FeatureStoreError: a timestamp does not fit
    """
    source, view = request.view.batch_source, request.view
    columns = _columns(source)
    used = [*view.join_keys, *(field.name for field in view.features), source.timestamp_field]
    used += [source.created_timestamp_column] if source.created_timestamp_column else []
    try:
        found = next(_overflows(open_files(store, request), [columns.get(name, name) for name in used], "ns"), None)
    except (FeatureStoreError, OSError, pa.ArrowException):
        return
    if found is not None:
        path, overflow = found
        raise FeatureStoreError(
            f"Column {overflow.column!r} of {path}, in the source of feature view {view.name!r}, contains an INT96 time in "
            f"row {overflow.row:,} that is outside the years 1677 to 2262: {overflow.seconds} seconds since 1970. Feast "
            "would materialize another time. Write the column as timestamps in microseconds, or ingest the files and "
            "publish the dataset with `sources`."
        )


def _columns(source: Any) -> dict[str, str]:
    """Return the field mapping of a source in reverse: the name of a column in the files, by its name in Feast."""
    return {mapped: name for name, mapped in (source.field_mapping or {}).items()}


def open_files(store: FeatureStore, request: ViewRequest) -> ds.Dataset:
    """Open the Parquet files of a feature view.

    :raises FeatureStoreError: the files cannot be read
    """
    try:
        filesystem, path = place(store, request)
        return ds.dataset(path, filesystem=filesystem, format=PARQUET)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(request, error) from error


def place(store: FeatureStore, request: ViewRequest) -> tuple[Any, str]:
    """Return the file system of the files of a feature view, and the path of the file or folder there."""
    source = request.view.batch_source
    uri = type(source).get_uri_for_file_path(repo_path=store.repo_path, uri=source.path)
    found: tuple[Any, str] = type(source).create_filesystem_and_path(
        str(uri), source.file_options.s3_endpoint_override, source.resolve_credentials()
    )
    return found


def _overflows(
    dataset: ds.Dataset, columns: Collection[str], unit: Literal["us", "ns"]
) -> Iterator[tuple[str, Overflow]]:
    """Yield the path of each file with an INT96 timestamp that overflows in ``unit``, and the first such timestamp."""
    for fragment in dataset.get_fragments():
        found = find_overflow(fragment.open(), fragment.metadata, columns, unit=unit)
        if found is not None:
            yield fragment.path, found


def _unreadable(request: ViewRequest, error: Exception) -> FeatureStoreError:
    """Create the error for a source whose files cannot be read."""
    return FeatureStoreError(
        f"The source of feature view {request.view.name!r}, {request.view.batch_source.path}, cannot be read: "
        f"{one_line(error)}. Check that the files exist and are Parquet files."
    )


def _comparable(one: pa.DataType, other: pa.DataType) -> bool:
    one, other = _value_type(one), _value_type(other)
    return (
        one.equals(other)
        or pa.types.is_null(other)
        or _are_times(one, other)
        or any(check(one) and check(other) for check in (_is_exact_number, is_text, pa.types.is_floating))
    )


def _are_times(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether columns of two types are compared as points in time: times with times, or times with text."""
    one, other = _value_type(one), _value_type(other)
    return (is_time(one) and (is_time(other) or is_text(other))) or (is_text(one) and is_time(other))


def _is_exact_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_decimal(kind))


def common_scale(one: pa.DataType, other: pa.DataType) -> int | None:
    """Return the number of digits after the point with which two types of a join key are compared as decimals.

    :return: ``None`` if neither is a decimal, or if they are equal
    """
    kinds = [_value_type(kind) for kind in (one, other)]
    if kinds[0].equals(kinds[1]) or not all(map(_is_exact_number, kinds)):
        return None
    scales = [kind.scale for kind in kinds if pa.types.is_decimal(kind)]
    return max(0, *scales) if scales else None


def _has_decimal256(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    children = (kind.field(number).type for number in range(kind.num_fields))
    return bool(pa.types.is_decimal256(kind)) or any(map(_has_decimal256, children))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def decoded(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """Convert a column to a type that DuckDB returns unchanged."""
    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    if pa.types.is_duration(column.type):
        return column.cast(pa.int64())
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether DuckDB reads the values of this type unchanged from Parquet files."""
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    checks = (
        pa.types.is_boolean,
        pa.types.is_integer,
        pa.types.is_float32,
        pa.types.is_float64,
        pa.types.is_decimal128,
        is_text,
        pa.types.is_binary,
        pa.types.is_large_binary,
        pa.types.is_date32,
        pa.types.is_timestamp,
    )
    return any(check(kind) for check in checks)


def _is_nanoseconds(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")


def _same_types(schema: pa.Schema, other: pa.Schema, columns: Iterable[str]) -> bool:
    return all(
        name in other.names and other.names.count(name) == 1 and other.field(name).type.equals(schema.field(name).type)
        for name in columns
    )


def _micros(column: str, kind: pa.DataType) -> str:
    """Build SQL for a time in microseconds since 1970. Nanoseconds are rounded up, so no row is joined too early."""
    if not _is_nanoseconds(kind):
        return f"epoch_us({column})"
    rounded = f"{column}::{'TIMESTAMPTZ' if kind.tz else 'TIMESTAMP'}"
    return f"(epoch_us({rounded}) + ({rounded} < {column})::BIGINT)"


def within(field: pa.Field, span: Span) -> pc.Expression | None:
    """Build an Arrow filter for rows within ``span``, or return ``None`` if the column's type allows no filter."""
    if not pa.types.is_timestamp(field.type) or _is_nanoseconds(field.type):
        return None

    def bound(micros: int, up: bool) -> pa.Scalar:
        value = pa.scalar(micros, pa.timestamp("us", field.type.tz))
        tick = {"s": 1_000_000, "ms": 1_000}.get(field.type.unit, 1)
        return pa.scalar(micros // tick * tick + (tick if up else 0), value.type).cast(field.type)

    condition = pc.field(field.name) <= bound(span.last, up=True)
    if span.first is not None:
        condition &= pc.field(field.name) >= bound(span.first, up=False)
    return condition
