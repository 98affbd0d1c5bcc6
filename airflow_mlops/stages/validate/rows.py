"""The rows of one or several datasets, read as one table in batches of limited size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from airflow_mlops.data import row_spans
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.types import common_schema, conformed

BATCH_ROWS = 262_144
"""Number of rows of a batch. Windows of at most this size are validated as one pandas DataFrame.

It is also the number of rows in a file of a larger quarantine and of its valid rows together, so it determines their ids.
"""


class Rows:
    """The rows of one or several datasets that have the same name, such as the windows of a quarter.

    :param datasets: the datasets, in order
    :param batch_rows: maximum number of rows of a batch
    :raises SchemaError: the datasets have columns of different types
    """

    def __init__(self, datasets: Sequence[Dataset], batch_rows: int = BATCH_ROWS) -> None:
        self.datasets, self.batch_rows = datasets, batch_rows
        self._what = f"The windows of dataset {datasets[0].manifest.name!r}"
        schemas = [dataset.schema.remove_metadata() for dataset in datasets]
        self.schema = schemas[0]
        if len(datasets) > 1:
            self.schema = common_schema(schemas, self._what, "Ingest the windows again with equal types.")
        self.count = sum(dataset.rows for dataset in datasets)

    @property
    def fits(self) -> bool:
        """Return whether all rows are validated at once.

        This is the case if there are few rows, or if a column has categories, because the categories of such a column
        would differ between batches.
        """
        return self.count <= self.batch_rows or any(map(_has_categories, self.schema.types))

    @property
    def batch_count(self) -> int:
        """Return the number of batches. If only a window of a dataset is selected, some batches may have no rows."""
        return len(row_spans.pieces(self.datasets, self.batch_rows, 0, 1))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read all rows, with all columns or only ``columns``."""
        schema = self._schema(columns)
        return pa.Table.from_batches(self._read(columns, schema, self._spans(0, 1)), schema)

    def columns(self, names: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Yield the values of some columns in batches, each with the number of rows before it.

        :param names: names of the columns, each once and at least one
        """
        first, schema = 0, self._schema(names)
        for batch in self._read(names, schema, self._spans(0, 1)):
            yield first, pa.Table.from_batches([batch], schema)
            first += batch.num_rows

    def column(self, name: str, part: int = 0, parts: int = 1) -> Iterator[tuple[int, pa.Array]]:
        """Yield the values of a column in batches, each with the number of rows of the part before it."""
        first = 0
        for batch in self._read([name], self._schema([name]), self._spans(part, parts)):
            yield first, batch.column(0)
            first += batch.num_rows

    def first(self, count: int) -> pa.Table:
        """Read the first rows, ``count`` at most."""
        for batch in self._read(None, self.schema, self._spans(0, 1)):
            if batch.num_rows:
                return pa.Table.from_batches([batch.slice(0, count)], self.schema)
        return self.schema.empty_table()

    def batches(
        self, part: int = 0, parts: int = 1, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[int, pa.Table]]:
        """Yield tables of at most ``batch_rows`` rows, each with the number of earlier rows in the part.

        The tables are the same for any number of parts. If there are no rows at all, one table without rows is yielded,
        unless there are several parts.

        :param part: number of the part of the rows, from 0
        :param parts: number of parts
        :param columns: names of columns; all by default
        """
        first, schema = 0, self._schema(columns)
        for spans in row_spans.pieces(self.datasets, self.batch_rows, part, parts):
            table = pa.Table.from_batches(self._read(columns, schema, spans), schema)
            # If only a window of a dataset is selected, a piece may have no rows.
            if table.num_rows:
                yield first, table
                first += table.num_rows
        if not first and parts == 1:
            yield first, schema.empty_table()

    def facts(self, part: int = 0, parts: int = 1) -> dict[str, ColumnFacts]:
        """Return the facts about the values of each column that determine its type in pandas, by name of the column."""
        names = [field.name for field in self.schema if _depends_on_values(field.type)]
        found = dict.fromkeys(self.schema.names, ColumnFacts())
        if names:
            for batch in self._read(names, self._schema(names), self._spans(part, parts)):
                for name in names:
                    found[name] = found[name].with_values(batch[name])
        return found

    def _spans(self, part: int, parts: int) -> list[tuple[Dataset, range]]:
        pieces = row_spans.pieces(self.datasets, self.batch_rows, part, parts)
        return row_spans.joined(span for piece in pieces for span in piece)

    def _schema(self, columns: Sequence[str] | None) -> pa.Schema:
        return self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])

    def _read(
        self, columns: Sequence[str] | None, schema: pa.Schema, spans: Sequence[tuple[Dataset, range]]
    ) -> Iterator[pa.RecordBatch]:
        size = min(self.batch_rows, 65_536)
        for dataset, span in spans:
            present = None
            if columns is not None:
                names = dataset.manifest.column_names
                # Arrow does not count the rows of batches without columns.
                present = [name for name in columns if name in names] or names[:1]
            for batch in dataset.batches(columns=present, batch_rows=size, span=span):
                yield conformed(batch.replace_schema_metadata(None), schema, self._what)


def _depends_on_values(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind))


def _has_categories(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind))
