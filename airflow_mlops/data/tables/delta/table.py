"""Replace a part of a Delta table with the rows of a dataset, in one commit.

A part is all rows with the same values in some columns, such as the same window, model version and dataset.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SpecError, TableError, TableUnavailableError, one_line
from airflow_mlops.data.tables.delta.statistics import STATISTICS_DIGITS, STATISTICS_SCALE, has_inexact_statistics
from airflow_mlops.data.tables.lake_types import check_columns, fits, new_type, writable, writable_type
from airflow_mlops.data.tables.parts import Part, kept_errors

if TYPE_CHECKING:
    import deltalake

ATTEMPTS = 10
"""The number of attempts to write the rows, if each attempt conflicts with a commit of another writer."""

# In seconds. Pauses grow, so that tasks that rewrite the same file do not conflict again.
_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
# The types of partition columns whose values deltalake does not write unchanged.
_INEXACT_PARTITIONS = ("decimal", "double", "binary")
# Delta allows these characters in names of columns only if the table uses column mapping.
_FORBIDDEN = frozenset(" ,;{}()\n\t=")
_COLOURS = re.compile("\x1b\\[\\d*m")
_LONGEST_MESSAGE = 500


class DeltaTable:
    """A Delta table in a local folder or an object store.

    :param url: absolute path or URL of the table
    :param options: storage options of ``deltalake``, which may contain secrets; by default those of the environment
    :raises SpecError: ``deltalake`` is not installed
    """

    def __init__(self, url: str, options: dict[str, str] | None = None) -> None:
        self.url = url
        self._options = options or {}
        try:
            import deltalake  # noqa: F401
        except ImportError:
            raise SpecError(
                f"{self.where} cannot be written, because deltalake is not installed where the step runs. Install "
                "airflow-mlops[delta] there."
            ) from None

    @property
    def where(self) -> str:
        """Return the description of the table in error messages."""
        return f"Delta table {self.url!r}"

    def replace(self, schema: pa.Schema, part: Part, batches: Iterable[pa.RecordBatch]) -> int:
        """Replace the rows of ``part`` with ``batches``, in one commit. If it fails, the table is unchanged.

        The table is created before the commit if it does not exist. If another writer has changed the same part or the
        same files in the meantime, the rows are written again, at most :data:`ATTEMPTS` times.

        :param schema: columns of the rows
        :param part: columns and values that select the replaced rows. All rows of ``batches`` have these values
        :param batches: the new rows, which can be iterated several times
        :return: number of rows written
        :raises TableError: the table cannot hold the rows, or rejects them
        :raises TableUnavailableError: the table cannot be reached, or every commit conflicted with another one
        """
        from deltalake.exceptions import CommitFailedError

        check_columns(schema, self.where)
        self._check_names(schema)
        for attempt in range(1, ATTEMPTS + 1):
            failed: list[BaseException] = []
            with self._errors(failed):
                table = self._open(schema, part)
                others = self._check(schema, table)
                try:
                    return self._commit(table, schema, part, kept_errors(iter(batches), failed), others)
                except CommitFailedError:
                    if failed or attempt == ATTEMPTS:
                        raise
                    _pause(attempt)
        raise AssertionError

    def _check_names(self, schema: pa.Schema) -> None:
        for name in schema.names:
            if found := sorted(_FORBIDDEN & set(name)):
                raise TableError(
                    f"{self.where} cannot have the column {name!r}, because Delta allows no {found[0]!r} in names of "
                    "columns. Rename it where the data is ingested."
                )

    def _open(self, schema: pa.Schema, part: Part) -> deltalake.DeltaTable:
        import deltalake
        from deltalake.exceptions import DeltaError, TableNotFoundError

        try:
            return deltalake.DeltaTable(self.url, storage_options=self._options)
        except TableNotFoundError:
            pass
        columns = pa.schema([(field.name, writable_type(field.type)) for field in schema])
        # The statistics of these columns find the files of a part. Those of long decimals would be inexact.
        settings = {"delta.dataSkippingStatsColumns": ",".join(part)}
        try:
            return deltalake.DeltaTable.create(
                self.url,
                deltalake.Schema.from_arrow(columns),
                storage_options=self._options,
                configuration=settings,
            )
        except DeltaError as error:
            # Another task may have created the table at the same moment.
            try:
                return deltalake.DeltaTable(self.url, storage_options=self._options)
            except TableNotFoundError:
                raise error from None

    def _check(self, schema: pa.Schema, table: deltalake.DeltaTable) -> bool:
        """Check that the table can hold the rows, and return whether it has other columns."""
        settings = table.metadata().configuration
        if settings.get("delta.columnMapping.mode", "none") != "none":
            raise TableError(f"{self.where} uses column mapping, which is not supported. Write to another table.")
        if settings.get("delta.appendOnly") == "true":
            raise TableError(
                f"{self.where} allows only appends, so its rows cannot be replaced. Set its property delta.appendOnly to "
                "false, or write to another table."
            )
        if "deletionVectors" in (table.protocol().writer_features or ()):
            raise TableError(
                f"{self.where} has deletion vectors, which are not supported. Drop this feature of the table, or write to "
                "another table."
            )
        known = {field.name: field for field in table.schema().fields}
        statistics = _with_statistics(table)
        for field in schema:
            wanted = new_type(field.type)
            column = known.pop(field.name, None)
            if column is None:
                raise TableError(f"{self.where} has no column {field.name!r}. Add it with the type {wanted}.")
            found = str(column.type.type)
            if not fits(field.type, found):
                raise TableError(
                    f"Column {field.name!r} of Delta table {self.url!r} has the type {found}, which cannot hold every "
                    f"{field.type}. Change it to {wanted}, or write to another table."
                )
            self._check_statistics(field.name, found, statistics)
            if field.name in table.metadata().partition_columns and found.startswith(_INEXACT_PARTITIONS):
                raise TableError(
                    f"{self.where} is partitioned by column {field.name!r} of the type {found}, whose values deltalake does not "
                    "write unchanged. Write to another table."
                )
        for name, column in known.items():
            self._check_statistics(name, str(column.type.type), statistics)
            if not column.nullable and "delta.generationExpression" not in column.metadata:
                raise TableError(
                    f"{self.where} has the column {name!r}, which allows no null. Let the column allow nulls."
                )
        return bool(known)

    def _check_statistics(self, name: str, found: str, statistics: Sequence[str]) -> None:
        if has_inexact_statistics(found) and name in statistics:
            raise TableError(
                f"Column {name!r} of Delta table {self.url!r} has the type {found}. Its statistics would be inexact beyond "
                f"{STATISTICS_DIGITS} digits, or {STATISTICS_SCALE} decimal places, so that filters miss rows. Set the table's "
                "property delta.dataSkippingStatsColumns to a list of other columns, or write to another table."
            )

    def _check_values(self, batch: pa.RecordBatch, table: deltalake.DeltaTable, statistics: Sequence[str]) -> None:
        """Refuse values that deltalake would change, or whose statistics would hide other rows."""
        partitions = table.metadata().partition_columns
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if name in partitions and pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py():
                raise TableError(
                    f"{self.where} is partitioned by column {name!r}, which contains an empty text. deltalake would write null. Write "
                    "to another table."
                )
            if name in statistics and pa.types.is_floating(column.type) and pc.any(pc.is_inf(column)).as_py():
                raise TableError(
                    f"Column {name!r} contains infinity, so filters on the statistics of Delta table {self.url!r} "
                    "would miss other rows. "
                    "Set the table's property delta.dataSkippingStatsColumns to a list of other columns, or correct the model."
                )

    def _commit(
        self,
        table: deltalake.DeltaTable,
        schema: pa.Schema,
        part: Part,
        batches: Iterator[pa.RecordBatch],
        others: bool,
    ) -> int:
        """Delete and add the rows in one commit, and return the number of added rows."""
        from deltalake import write_deltalake

        written, statistics = 0, _with_statistics(table)
        columns = pa.schema([(field.name, writable_type(field.type)) for field in schema])

        def rows() -> Iterator[pa.RecordBatch]:
            nonlocal written
            for batch in batches:
                self._check_values(batch, table, statistics)
                written += batch.num_rows
                yield pa.RecordBatch.from_arrays([writable(column) for column in batch.columns], schema=columns)

        write_deltalake(
            table,
            pa.RecordBatchReader.from_batches(columns, rows()),
            mode="overwrite",
            predicate=" AND ".join(f"`{name}` = {_literal(value)}" for name, value in part.items()),
            # Other columns become null, or what their expression generates.
            schema_mode="merge" if others else None,
        )
        return written

    @contextmanager
    def _errors(self, failed: list[BaseException]) -> Iterator[None]:
        """Convert exceptions of ``deltalake`` to errors of this package.

        :param failed: the exception that was raised while the rows were read, if any. This exception is raised
            unchanged
        :raises TableError: the table rejected the rows, or has a feature that ``deltalake`` does not support
        :raises TableUnavailableError: the table cannot be reached, or was changed by others during every attempt
        """
        from deltalake.exceptions import CommitFailedError, DeltaError, DeltaProtocolError, SchemaMismatchError

        try:
            yield
        except (DeltaError, OSError, pa.ArrowException) as error:
            if failed:
                raise failed[0] from None
            message = _message(error)
            if isinstance(error, (DeltaProtocolError, SchemaMismatchError)) or "Invalid data found" in message:
                raise TableError(
                    f"{self.where} was not changed, because it rejected the rows: {message}. Correct the table or the "
                    "data, or write to another table."
                ) from None
            if isinstance(error, CommitFailedError):
                raise TableUnavailableError(
                    f"{self.where} was changed by others during each of {ATTEMPTS} attempts to write it: {message}. A "
                    "retry writes all rows again. Let fewer tasks write to it at the same time."
                ) from None
            raise TableUnavailableError(
                f"{self.where} could not be written: {message}. A retry writes all rows again. Check that the table can "
                "be reached and its credentials are valid where the step runs."
            ) from None


def _with_statistics(table: deltalake.DeltaTable) -> list[str]:
    """Return the names of the columns whose minimum and maximum the table can store for each file."""
    chosen = table.metadata().configuration.get("delta.dataSkippingStatsColumns")
    if chosen is None:
        return [field.name for field in table.schema().fields]
    return [name.strip().strip("`") for name in chosen.split(",")]


def _literal(value: Any) -> str:
    """Format a value that selects the rows of a part as an SQL literal."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, datetime):
        moment = value.astimezone(timezone.utc).replace(tzinfo=None).isoformat(timespec="microseconds")
        return f"'{moment}Z'"
    text = str(value).replace("'", "''")
    return f"'{text}'"


def _message(error: BaseException) -> str:
    # The text after "Preview of" contains values of rows, so the message leaves it out.
    return one_line(type(error)(_COLOURS.sub("", str(error)).partition("Preview of")[0]), _LONGEST_MESSAGE)


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.5, 1) * min(_PAUSE * 2**attempt, _LONGEST_PAUSE))  # noqa: S311
