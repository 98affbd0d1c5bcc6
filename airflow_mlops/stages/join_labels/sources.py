"""Read the keys of predictions, and the rows of labels, in batches that DuckDB can join."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data import expressions
from airflow_mlops.data.carried import carried, carried_type, restored
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import UTC, as_utc, instants, is_text, is_time, ranks_of
from airflow_mlops.data.predictions.privacy import Pseudonymizer
from airflow_mlops.data.sample_weights import is_number
from airflow_mlops.data.types import as_doubles, as_stored, common_schema, conformed
from airflow_mlops.stages.join_labels.keys import KeyColumn
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec

ROW, LABEL_ROW, VALUE, WEIGHT = "prediction_row", "label_row", "label_value", "label_weight"


class Windows:
    """Columns of several windows of a dataset, read in batches as one table.

    :param datasets: the windows, in order
    :param columns: names of the columns to read
    :param keys: key columns, which are converted to stored types
    :param times: key columns that are converted to UTC timestamps
    :param spans: the rows to read, as positions in the files of each window; by default all rows
    :raises SchemaError: a column is absent, the windows have columns of different types, or a key is nested
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        columns: Sequence[str],
        keys: Sequence[str],
        times: Collection[str],
        spans: Sequence[tuple[Dataset, range]] | None = None,
    ) -> None:
        self._datasets, self._columns, self._keys, self._times = datasets, list(columns), keys, times
        self._spans = [(dataset, None) for dataset in datasets] if spans is None else spans
        self.name = datasets[0].manifest.name
        self._what = f"The windows of dataset {self.name!r}"
        for dataset in datasets:
            dataset.require_columns(columns)
        self._common = common_schema(
            map(self._read_schema, datasets), self._what, "Ingest the windows again with equal types."
        )
        kinds = {field.name: field.type for field in self._common}
        for key in keys:
            kinds[key] = as_stored(pa.array([], kinds[key]), self._key(key)).type
            if pa.types.is_nested(kinds[key]):
                raise SchemaError(
                    f"The key column {key!r} of dataset {self.name!r} has the type {kinds[key]}, which cannot be a key. Set "
                    "`on` to columns of numbers, text, booleans or times."
                )
        self.kinds = kinds

    def _read_schema(self, dataset: Dataset) -> pa.Schema:
        schema = dataset.schema
        for key in self._times:
            # The conversion raises an error for types that are not times, even in a window without rows.
            as_utc(pa.array([], schema.field(key).type), self._time(key, dataset))
        return pa.schema([
            (name, UTC if name in self._times else schema.field(name).type) for name in self._columns
        ])  # fmt: skip

    @staticmethod
    def _time(key: str, dataset: Dataset) -> str:
        return f"The key column {key!r} of dataset {dataset.manifest.name!r}"

    def _key(self, key: str) -> str:
        return f"Column {key!r} of dataset {self.name!r}"

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches of rows, each with the number of rows that were read before it.

        :raises SchemaError: a value cannot be converted
        """
        row = 0
        for dataset, span in self._spans:
            start = row
            for batch in dataset.batches(columns=self._columns, span=span):
                try:
                    converted = self._converted(batch, dataset, row - start, row)
                except SchemaError:
                    # Error messages count all rows of the windows. Rows that are not read are counted only after an error.
                    first, before = self._rows_before(dataset, span)
                    self._converted(batch, dataset, row - start + first, row - start + first + before)
                    raise
                yield row, converted
                row += batch.num_rows

    def _converted(
        self, batch: pa.RecordBatch, dataset: Dataset, row_in_window: int, row_in_all: int
    ) -> pa.RecordBatch:
        for key in self._times:
            batch = _set(batch, key, as_utc(batch[key], self._time(key, dataset), first_row=row_in_window))
        if len(self._datasets) > 1:
            batch = conformed(batch, self._common, self._what)
        for key in self._keys:
            batch = _set(batch, key, as_stored(batch[key], self._key(key), first_row=row_in_all))
        return batch

    def _rows_before(self, dataset: Dataset, span: range | None) -> tuple[int, int]:
        """Return the number of rows of a window before ``span``, and the number of rows of earlier windows."""
        place = next(n for n, other in enumerate(self._datasets) if other is dataset)
        earlier = sum(other.rows for other in self._datasets[:place])
        if span is None:
            return 0, earlier
        skipped = dataset.batches(columns=self._columns[:1], span=range(span.start))
        return sum(batch.num_rows for batch in skipped), earlier


def _set(batch: pa.RecordBatch, name: str, values: Any) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), name, values)


class Predictions:
    """The keys of the predictions in comparable form.

    :param first: the keys of the first prediction, by name; empty until a prediction was read
    """

    def __init__(self, windows: Windows, keys: Sequence[KeyColumn]) -> None:
        self._windows, self._keys = windows, keys
        self.first: dict[str, Any] = {}

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the key columns, with the number of rows before each table."""
        for row, batch in self._windows.batches():
            yield row, pa.table({key.name: key.of_predictions(batch[key.name]) for key in self._keys})

    @property
    def comparable(self) -> pa.Schema:
        """Return the names and types of the comparable key columns."""
        return pa.schema([(key.name, key.kind) for key in self._keys])

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([(ROW, pa.int64()), *((f"k{n}", key.carried) for n, key in enumerate(self._keys))])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows for the join: the row number and the keys ``k0``, ``k1`` and so on."""
        for row, table in self.tables():
            if not self.first and table.num_rows:
                self.first = {name: table[name][0].as_py() for name in table.column_names}
            numbers = pa.array(np.arange(row, row + table.num_rows))
            yield _batch(self.schema, [numbers, *table.columns])


@dataclass(frozen=True)
class Order:
    """A column that determines the order of labels. It contains times or other values that can be compared.

    :param column: name of the column
    :param kind: type of the column
    :param what: subject of error messages
    :raises SchemaError: the values of the type have no order
    """

    column: str
    kind: pa.DataType
    what: str

    def __post_init__(self) -> None:
        if self.is_time:
            return
        try:
            _ranks(pa.array([], self.kind))
            carried_type(self.kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            raise SchemaError(
                f"{self.what} has the type {self.kind}, which has no order. Use a column of times or numbers."
            ) from None

    @property
    def is_time(self) -> bool:
        """Return whether the column has times, or text that is read as times."""
        return is_time(self.kind) or is_text(self.kind)

    @property
    def types(self) -> list[pa.DataType]:
        return [pa.int64(), pa.int64()] if self.is_time else [carried_type(self.kind)]

    def columns(self, batch: pa.RecordBatch, first_row: int) -> list[pa.Array]:
        """Return the columns from which :meth:`ranks` computes the order after the join.

        For times, they are microseconds and nanoseconds. For other types, they are the values.
        """
        values = batch[self.column]
        return list(instants(values, self.what, first_row=first_row)) if self.is_time else [carried(values)]

    def ranks(self, columns: Sequence[pa.Array]) -> pa.Array:
        """Return the rank of each value, from 1 for the smallest; 0 for null. Equal values have the same rank."""
        return ranks_of(*columns) if self.is_time else _ranks(restored(columns[0], self.kind))


def _ranks(column: pa.Array) -> pa.Array:
    places = pc.rank(column, tiebreaker="dense").cast(pa.int64())
    return pc.if_else(pc.is_null(column, nan_is_null=True), 0, places)


class Labels:
    """The rows of the dataset of labels: comparable keys, the label, its weight, and the columns that order labels.

    :param kind: type of the label
    :param by_time: order by ``labels_timestamp``; ``None`` if it is not set
    :param by_version: order by ``labels_version``; ``None`` if it is not set
    :param weight: name and type of the column ``sample_weight``; ``None`` if it is not set
    :param rows: number of rows that the last call of :meth:`batches` has read
    :raises SchemaError: the type of a column cannot be a key or a label, or the values of a column have no order
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: JoinLabelsSpec,
        hashed: Mapping[str, Pseudonymizer],
        times: Collection[str],
    ) -> None:
        self._label, self._hashed = spec.label, hashed
        wanted = {
            *spec.on,
            *(expressions.columns(spec.label.expression) if spec.label.expression else [spec.label.name]),
        }
        wanted.update(name for name in (spec.labels_timestamp, spec.labels_version, spec.sample_weight) if name)
        self.windows = Windows(datasets, sorted(wanted), spec.on, times)
        self.name, self.rows = self.windows.name, 0
        self.by_time = self._order("labels_timestamp", spec.labels_timestamp)
        self.by_version = self._order("labels_version", spec.labels_version)
        self.kind = self._kind()
        self.weight = self._weight(spec.sample_weight)
        self.keys: list[KeyColumn] = []

    def _order(self, parameter: str, column: str | None) -> Order | None:
        if column is None:
            return None
        return Order(column, self.windows.kinds[column], f"The `{parameter}` {column!r} of dataset {self.name!r}")

    def _weight(self, column: str | None) -> tuple[str, pa.DataType] | None:
        if column is None:
            return None
        kind = self.windows.kinds[column]
        if not is_number(kind):
            raise SchemaError(
                f"The `sample_weight` {column!r} of dataset {self.name!r} has the type {kind}, but weights must be numbers. "
                "Convert it where the labels are ingested, or use another column."
            )
        return column, kind

    def key_kind(self, key: str) -> pa.DataType:
        """Return the type of a key column. A hashed key is text."""
        return pa.string() if key in self._hashed else self.windows.kinds[key]

    def _values(self, batch: pa.RecordBatch) -> pa.Array:
        expression = self._label.expression
        values = expressions.evaluate(expression, batch) if expression else batch[self._label.name]
        return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values

    def _kind(self) -> pa.DataType:
        schema = pa.schema(list(self.windows.kinds.items()))
        kind = self._values(pa.RecordBatch.from_pylist([], schema=schema)).type
        what = f"The label {self._label.expression or self._label.name!r} of dataset {self.name!r}"
        if pa.types.is_nested(kind):
            raise SchemaError(
                f"{what} has the type {kind}, which cannot be a label. Set "
                "`label` to a column of numbers, text or booleans, or to an expression."
            )
        if pa.types.is_decimal(kind):
            # The label is an integer if all decimals are whole and fit into 64 bits.
            whole = kind.scale <= 0 and all(_is_whole(self._values(batch)) for _, batch in self.windows.batches())
            return pa.int64() if whole else pa.float64()
        return kind

    def _numbers(self, values: pa.Array) -> pa.Array:
        if not pa.types.is_decimal(values.type):
            return values
        return as_doubles(values) if pa.types.is_floating(self.kind) else pc.cast(values, self.kind)

    @property
    def orders(self) -> list[tuple[str, Order]]:
        """Return each order that is set, with the prefix of the names of its columns."""
        found = [("time", self.by_time), ("version", self.by_version)]
        return [(name, order) for name, order in found if order is not None]

    @property
    def carried_columns(self) -> dict[str, pa.DataType]:
        """Return the columns that the join returns in addition to the row number."""
        orders = {f"{name}{n}": kind for name, order in self.orders for n, kind in enumerate(order.types)}
        weight = {WEIGHT: carried_type(self.weight[1])} if self.weight else {}
        return {VALUE: carried_type(self.kind), **weight, **orders}

    @property
    def schema(self) -> pa.Schema:
        keys = ((f"k{n}", key.carried) for n, key in enumerate(self.keys))
        return pa.schema([(LABEL_ROW, pa.int64()), *keys, *self.carried_columns.items()])

    def _key_columns(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        return {
            key.name: key.of_labels(
                self._hashed[key.name].hash_column(batch[key.name]) if key.name in self._hashed else batch[key.name]
            )
            for key in self.keys
        }

    def tables(self) -> Iterator[tuple[int, pa.Table]]:
        """Yield the key columns, with the number of rows before each table."""
        for row, batch in self.windows.batches():
            yield row, pa.table(self._key_columns(batch))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows for the join: the row number, the keys ``k0``, ``k1`` and so on, and the other columns."""
        self.rows = 0
        for row, batch in self.windows.batches():
            orders = [column for _, order in self.orders for column in order.columns(batch, row)]
            numbers = pa.array(np.arange(row, row + batch.num_rows))
            value = carried(self._numbers(self._values(batch)))
            weight = [carried(batch[self.weight[0]])] if self.weight else []
            yield _batch(self.schema, [numbers, *self._key_columns(batch).values(), value, *weight, *orders])
            self.rows += batch.num_rows


def _is_whole(values: pa.Array) -> bool:
    try:
        pc.cast(values, pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _batch(schema: pa.Schema, columns: Sequence[Any]) -> pa.RecordBatch:
    arrays = [column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column for column in columns]
    return pa.RecordBatch.from_arrays([carried(array) for array in arrays], schema=schema)


def sources(
    predictions: Sequence[Dataset],
    labels: Sequence[Dataset],
    spec: JoinLabelsSpec,
    hashed: Mapping[str, Pseudonymizer],
    spans: Sequence[tuple[Dataset, range]] | None = None,
) -> tuple[Predictions, Labels]:
    """Open the predictions and labels to join.

    :param hashed: pseudonymizer of each key column that scoring hashed, by name of the column
    :param spans: the predictions to join, as positions in the files of each dataset; by default all predictions
    :raises SchemaError: a column is absent, or has a type that cannot be a key, a label or an order; or key columns
        have incomparable types
    """
    times = [key for key in spec.on if key not in hashed and _holds_times(key, predictions, labels)]
    names = list(dict.fromkeys(spec.on))
    left = Windows(predictions, names, names, times, spans)
    right = Labels(labels, spec, hashed, times)
    keys = [KeyColumn(key, left.kinds[key], right.key_kind(key), right.name) for key in names]
    right.keys = keys
    return Predictions(left, keys), right


def _holds_times(key: str, predictions: Sequence[Dataset], labels: Sequence[Dataset]) -> bool:
    """Return whether the key column ``key`` contains timestamps or dates in at least one dataset."""
    schemas = (dataset.schema for dataset in (*predictions, *labels))
    return any(is_time(schema.field(key).type) for schema in schemas if key in schema.names)
