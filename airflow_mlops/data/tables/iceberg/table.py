"""Replace a part of an Iceberg table with the rows of a dataset, in one commit.

A part is all rows with the same values in some columns, such as the same window, model version and dataset.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import chain
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SpecError, TableError, TableUnavailableError, one_line
from airflow_mlops.data.tables.lake_types import check_columns, fits, new_type, writable
from airflow_mlops.data.tables.parts import Part, kept_errors

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.expressions import BooleanExpression
    from pyiceberg.table import Table

ATTEMPTS = 10
"""The number of attempts to write the rows, if each attempt conflicts with a commit of another writer."""

# In seconds. Pauses grow, so that tasks that replace the same rows do not conflict again.
_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_TIMESTAMP = "timestamptz"
_LONGEST_MESSAGE = 500
# Uncompressed bytes of a file, and so the memory that writing it needs. The default is 512 MB.
_FILE_BYTES = 128 << 20


class IcebergTable:
    """An Iceberg table in a catalog.

    :param name: name of the table with its namespaces, such as ``sales.predictions``
    :param catalog: name of the catalog, for PyIceberg's own configuration and for errors
    :param properties: properties of the catalog, which may contain secrets
    :raises SpecError: ``pyiceberg`` is not installed
    """

    def __init__(self, name: str, catalog: str, properties: Mapping[str, str]) -> None:
        self.name = name
        self._catalog = catalog
        self._properties = dict(properties)
        try:
            import pyiceberg  # noqa: F401
        except ImportError:
            raise SpecError(
                f"{self.where} cannot be written, because pyiceberg is not installed where the step runs. Install "
                "airflow-mlops[iceberg] there."
            ) from None

    @property
    def where(self) -> str:
        """Return the description of the table in error messages."""
        return f"Iceberg table {self.name!r} of connection {self._catalog!r}"

    def replace(self, schema: pa.Schema, part: Part, batches: Iterable[pa.RecordBatch]) -> int:
        """Replace the rows of ``part`` with ``batches``, in one commit. If it fails, the table is unchanged.

        The table is created before the commit if it does not exist. If another writer has changed the same part or the
        same files in the meantime, the rows are written again, at most :data:`ATTEMPTS` times. The rows of a partitioned table
        are held in memory, because PyIceberg cannot write them otherwise.

        :param schema: columns of the rows
        :param part: columns and values that select the replaced rows. All rows of ``batches`` have these values
        :param batches: the new rows, which can be iterated several times
        :return: number of rows written
        :raises SpecError: the catalog, or the partitions of the table, need a package that is not installed
        :raises TableError: the table cannot hold the rows, or rejects them
        :raises TableUnavailableError: the catalog or the table cannot be reached, or every commit conflicted with
            another one
        """
        from pyiceberg.exceptions import CommitFailedException, ValidationException

        check_columns(schema, self.where)
        for attempt in range(1, ATTEMPTS + 1):
            failed: list[BaseException] = []
            with self._errors(failed):
                table = self._open(schema, part)
                try:
                    return self._commit(table, schema, part, kept_errors(iter(batches), failed))
                except (CommitFailedException, ValidationException):
                    if failed or attempt == ATTEMPTS:
                        raise
                    _pause(attempt)
        raise AssertionError

    def _load_catalog(self) -> Catalog:
        from pyiceberg.catalog import load_catalog

        catalog = load_catalog(self._catalog, **self._properties)
        _recognise_landed(catalog)
        return catalog

    def _open(self, schema: pa.Schema, part: Part) -> Table:
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError, TableAlreadyExistsError

        catalog = self._load_catalog()
        try:
            return catalog.load_table(self.name)
        except NoSuchTableError:
            pass
        settings = {"write.target-file-size-bytes": str(_FILE_BYTES)}
        # Without the whole values, files of a part are read and written again instead of being removed.
        settings |= {f"write.metadata.metrics.column.{name}": "full" for name in part}
        columns = pa.schema([(field.name, writable(pa.array([], field.type)).type) for field in schema])
        try:
            return catalog.create_table(self.name, columns, properties=settings)
        except TableAlreadyExistsError:
            # Another task has created it at the same moment.
            return catalog.load_table(self.name)
        except NoSuchNamespaceError:
            namespace = self.name.rpartition(".")[0]
            raise TableError(
                f"{self.where} cannot be created, because there is no namespace {namespace!r}. Create the namespace."
            ) from None

    def _columns(self, schema: pa.Schema, table: Table) -> pa.Schema:
        """Check that the table can hold the rows, and return the Arrow types in which they are written.

        :raises TableError: a column is absent or has another type, or another column must have a value
        """
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        known = {field.name: field for field in table.schema().fields}
        kinds = schema_to_pyarrow(table.schema(), include_field_ids=False)
        fields = []
        for field in schema:
            wanted = new_type(field.type, _TIMESTAMP)
            column = known.pop(field.name, None)
            if column is None:
                raise TableError(f"{self.where} has no column {field.name!r}. Add it with the type {wanted}.")
            if not fits(field.type, str(column.field_type), _TIMESTAMP):
                raise TableError(
                    f"Column {field.name!r} of {self.where} has the type {column.field_type}, which cannot hold every "
                    f"{field.type}. Change it to {wanted}, or write to another table."
                )
            kind = kinds.field(field.name).type
            fields.append(pa.field(field.name, kind, nullable=not column.required))
        if required := [name for name, column in known.items() if column.required and column.write_default is None]:
            raise TableError(
                f"{self.where} has the column {required[0]!r}, which allows no null. Let the column allow nulls."
            )
        return pa.schema(fields)

    def _commit(self, table: Table, schema: pa.Schema, part: Part, batches: Iterator[pa.RecordBatch]) -> int:
        """Delete and add the rows in one commit, and return the number of added rows."""
        columns = self._columns(schema, table)
        partitions = _float_partitions(table)
        if table.properties.get("write.update.isolation-level", "serializable") != "serializable":
            raise TableError(
                f"{self.where} has the property write.update.isolation-level, with which two tasks could write the same rows "
                "twice. Set it to serializable."
            )
        written = 0

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal written
            for batch in batches:
                if not batch.num_rows:
                    continue
                arrays = []
                for field, values in zip(columns, batch.columns, strict=True):
                    if not field.nullable and values.null_count:
                        raise TableError(
                            f"{self.where} allows no null in column {field.name!r}, but a row has a null there. Let the column allow nulls."
                        )
                    written_values = writable(values).cast(field.type)
                    if field.name in partitions:
                        written_values = self._as_partition(written_values, field.name)
                    arrays.append(written_values)
                written += batch.num_rows
                yield pa.RecordBatch.from_arrays(arrays, schema=columns)

        found = rows()
        first = next(found, None)
        with warnings.catch_warnings():
            # PyIceberg warns if there is nothing to replace.
            warnings.filterwarnings("ignore", message="Delete operation did not match any records")
            if first is None:
                table.delete(_selected(part))
                return 0
            reader = pa.RecordBatchReader.from_batches(columns, chain([first], found))
            table.overwrite(reader if table.spec().is_unpartitioned() else reader.read_all(), _selected(part))
        return written

    def _as_partition(self, values: pa.Array, name: str) -> pa.Array:
        """Return the values of a floating-point column by which the table is partitioned, with 0.0 instead of -0.0.

        PyIceberg 0.12 selects the rows of a partition with ``==``. It would write rows with -0.0 or 0.0 twice, and cannot
        write NaN.

        :raises TableError: a value is NaN
        """
        if pc.any(pc.is_nan(values)).as_py():
            raise TableError(
                f"{self.where} is partitioned by column {name!r}, but a row has NaN there, which PyIceberg cannot write. "
                "Partition the table by other columns, or let the column have nulls instead of NaN."
            )
        return pc.add(values, pa.scalar(0.0, values.type))

    @contextmanager
    def _errors(self, failed: list[BaseException]) -> Iterator[None]:
        """Convert exceptions of PyIceberg, its catalogs and its file systems to errors of this package.

        :param failed: the exception that was raised while the rows were read, if any. This exception is raised
            unchanged
        :raises SpecError: PyIceberg needs a package that is not installed
        :raises TableError: the table rejected the rows, or has a feature that PyIceberg does not support
        :raises TableUnavailableError: the catalog or the table cannot be reached, or was changed by others during every
            attempt
        """
        from pydantic import ValidationError
        from pyiceberg.exceptions import (
            CommitFailedException,
            ForbiddenError,
            NotInstalledError,
            UnauthorizedError,
            ValidationException,
        )

        try:
            yield
        except TableError:
            raise
        except Exception as error:  # noqa: BLE001 - catalogs and file systems raise errors of many libraries
            if failed:
                raise failed[0] from None
            message = one_line(error, _LONGEST_MESSAGE)
            if isinstance(error, (CommitFailedException, ValidationException)):
                raise TableUnavailableError(
                    f"{self.where} was changed by others during each of {ATTEMPTS} attempts to write it: {message}. A "
                    "retry writes all rows again. Let fewer tasks write to it at the same time."
                ) from None
            if isinstance(error, NotInstalledError):
                raise SpecError(
                    f"{self.where} cannot be written, because PyIceberg needs a package for it that is not installed where the step "
                    f"runs: {message}. Install it there."
                ) from None
            # A gateway between the step and the catalog may answer with a page instead of JSON.
            final = isinstance(error, (NotImplementedError, ValueError, ForbiddenError, UnauthorizedError))
            if final and not isinstance(error, (JSONDecodeError, ValidationError)):
                raise TableError(
                    f"{self.where} was not changed, because it rejected the rows: {message}. Correct the table, the connection or "
                    "the data, or write to another table."
                ) from None
            raise TableUnavailableError(
                f"{self.where} could not be written: {message}. A retry writes all rows again. Check that the catalog and "
                "the files of the table can be reached, and that the credentials are valid where the step runs."
            ) from None


def _float_partitions(table: Table) -> set[str]:
    """Return the names of the floating-point columns by which a table is partitioned."""
    from pyiceberg.types import DoubleType, FloatType

    fields = [table.schema().find_field(partition.source_id) for partition in table.spec().fields]
    return {field.name for field in fields if isinstance(field.field_type, (DoubleType, FloatType))}


def _recognise_landed(catalog: Catalog) -> None:
    """Change a catalog: a commit that was made counts as successful even if a repeated request reported a conflict.

    PyIceberg 0.12 would delete the files of such a commit if there was nothing to replace, and the table would be
    unreadable.
    """
    from pyiceberg.exceptions import CommitFailedException
    from pyiceberg.table import CommitTableResponse
    from pyiceberg.table.update import AddSnapshotUpdate

    commit = catalog.commit_table

    def commit_table(table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        try:
            return commit(table, requirements, updates)
        except CommitFailedException:
            ids = [update.snapshot.snapshot_id for update in updates if isinstance(update, AddSnapshotUpdate)]
            found = catalog.load_table(table.name())
            if not ids or any(found.metadata.snapshot_by_id(number) is None for number in ids):
                raise
            return CommitTableResponse.model_validate(
                {"metadata": found.metadata, "metadata-location": found.metadata_location}
            )

    catalog.commit_table = commit_table  # type: ignore[method-assign]


def _selected(part: Part) -> BooleanExpression:
    """Return the condition that selects the rows of a part."""
    from pyiceberg.expressions import AlwaysTrue, And, EqualTo

    found: BooleanExpression = AlwaysTrue()
    for name, value in part.items():
        literal = (
            value.astimezone(timezone.utc).isoformat(timespec="microseconds") if isinstance(value, datetime) else value
        )
        found = And(found, EqualTo(term=name, value=literal))
    return found


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1) * min(_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311
