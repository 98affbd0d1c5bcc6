"""Read the events of a training set, and compute the label of each event."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, SpecError, TrainingError
from airflow_mlops.data import expressions, relational
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc, is_text
from airflow_mlops.data.prefetch import prefetch
from airflow_mlops.data.spool import Rows, as_values, spooled
from airflow_mlops.data.types import as_doubles, as_numbers, as_stored, common_schema, conformed
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Connect: TypeAlias = "Callable[[str | None], AbstractContextManager[DuckDBPyConnection]]"


@contextmanager
def read_events(
    spec: TrainingSetSpec, datasets: Sequence[Dataset], join_columns: list[str], broken: Collection[str] = ()
) -> Iterator[tuple[Rows, dict[str, int]]]:
    """Read the events that have a label, sorted by event time and then by the other columns.

    The events are in a temporary file, which exists only inside the ``with`` block.

    :param datasets: the datasets that ``spec.entities`` selects
    :param join_columns: columns that the join of features needs in addition to the event time
    :param broken: columns that need not exist in every dataset. The type of such a column comes from the first dataset
        that has the column. The column is null in the rows of a dataset that lacks it or has it in another type
    :return: the events, and the number of rows that were left out, by reason (``label_unknown``)
    :raises EmptyWindowError: the datasets have no rows
    :raises SchemaError: an event time is null, or a column has different types in different windows
    :raises TrainingError: the label of every event is null, or a label is infinite
    """
    events = EventSource.of(spec, datasets, join_columns, broken)
    seen = Seen()
    found = events.batches(seen)
    with (
        prefetch(found) if events.are_in_order() else nullcontext(in_order(found, events.schema, spec)) as ordered,
        spooled(ordered, events.schema) as rows,
    ):
        refuse(seen, spec, datasets[0].manifest.name)
        yield with_numbers(rows, [_label_name(spec)]), {"label_unknown": seen.rows - seen.labelled}


@dataclass
class Seen:
    """Counts of the events that were read.

    :param rows: number of events, with and without a label
    :param labelled: number of events with a label
    :param timeless: number of events without a time
    :param infinite: number of infinite labels
    """

    rows: int = 0
    labelled: int = 0
    timeless: int = 0
    infinite: int = 0


def refuse(seen: Seen, spec: TrainingSetSpec, name: str) -> None:
    """Check the counts of all events.

    :param name: name of the dataset of events
    :raises EmptyWindowError: there are no events
    :raises SchemaError: an event time is null
    :raises TrainingError: the label of every event is null, or a label is infinite
    """
    if seen.timeless:
        raise SchemaError(
            f"The event time {spec.timestamp!r} is null in {counted(seen.timeless, 'row')} of dataset {name!r}, but a "
            "point-in-time join needs the time of every event. Drop or correct these rows upstream."
        )
    if not seen.rows:
        raise EmptyWindowError(
            f"Dataset {name!r} has no rows, so there are no events to join features to. Set `window` to a window with rows."
        )
    if seen.infinite:
        raise TrainingError(
            f"The label {_label_name(spec)!r} is infinite in {counted(seen.infinite, 'row')}. "
            "Correct the computation of the label, which may divide by zero."
        )
    if not seen.labelled:
        raise TrainingError(
            f"The label {_label_name(spec)!r} of all {seen.rows:,} events is null, so it is not known yet. Build "
            "the training set from an older window."
        )


class EventSource:
    """The labelled events of some datasets.

    :param columns: columns that the training set needs, without the label
    :param types: types of the columns that need not exist in every dataset. Such a column is null in the rows of a
        dataset that lacks it or has it in another type
    :param read_schema: the common types of all columns that are read
    :ivar schema: ``columns`` and, if there is one, the label
    """

    def __init__(
        self,
        spec: TrainingSetSpec,
        datasets: Sequence[Dataset],
        columns: Sequence[str],
        types: Mapping[str, pa.DataType],
        read_schema: pa.Schema | None = None,
    ) -> None:
        self._spec = spec
        self._datasets = datasets
        self._wanted = list(columns)
        self.types = dict(types)
        self._columns = list(dict.fromkeys([*self._wanted, *sorted(spec.label_columns)]))
        self._what = f"The windows of dataset {datasets[0].manifest.name!r}"
        if read_schema is None:
            read_schema = common_schema(
                (next(self._of(dataset, empty=True)).schema for dataset in datasets),
                self._what,
                "Ingest the windows again with equal types.",
            )
        self.read_schema = read_schema
        self.schema = self._labelled(self.read_schema.empty_table(), Seen()).schema

    @classmethod
    def of(
        cls, spec: TrainingSetSpec, datasets: Sequence[Dataset], join_columns: Sequence[str], broken: Collection[str]
    ) -> EventSource:
        """Open the events of a training set, see :func:`read_events`.

        :raises SchemaError: a column is absent, or has different types in different windows
        """
        wanted = list(dict.fromkeys([*join_columns, *spec.keys, spec.timestamp, *spec.columns, *spec.watched]))
        needed = {*join_columns, *spec.keys, *spec.label_columns, spec.timestamp}
        return cls(spec, datasets, wanted, _first_types(datasets, {*broken} & {*spec.columns} - needed))

    @property
    def columns(self) -> list[str]:
        """Return the columns that the training set needs, without the label."""
        return list(self._wanted)

    def batches(
        self, seen: Seen, spans: Sequence[tuple[Dataset, range]] | None = None, times: Times | None = None
    ) -> Iterator[pa.Table]:
        """Read the events that have a label.

        :param seen: counts of events. The events that are read are added to them
        :param spans: positions of the events in the files of each dataset; by default all events are read
        :param times: the times of the events; by default events of all times, and events without a time, are read
        """
        for dataset, span in spans if spans is not None else [(dataset, None) for dataset in self._datasets]:
            for table in self._of(dataset, span):
                table = conformed(table, self.read_schema, self._what)
                if times is not None:
                    table = table.filter(times.include(table[self._spec.timestamp]))
                seen.rows += table.num_rows
                seen.timeless += table[self._spec.timestamp].null_count
                labelled = self._labelled(table, seen)
                seen.labelled += labelled.num_rows
                yield labelled

    def are_in_order(self) -> bool:
        """Return whether the events need not be sorted: the event time is a timestamp, and each event is later than the one before."""
        timestamp, last = self._spec.timestamp, None
        for dataset in self._datasets:
            if not pa.types.is_timestamp(dataset.schema.field(timestamp).type):
                return False
            for batch in dataset.batches(columns=[timestamp]):
                times = as_utc(batch[timestamp], self._event_time(dataset)).cast(pa.int64())
                if times.null_count:
                    return False
                micros = times.to_numpy()
                if last is not None:
                    micros = np.concatenate([last, micros])
                if (micros[1:] <= micros[:-1]).any():
                    return False
                last = micros[-1:]
        return True

    def _event_time(self, dataset: Dataset) -> str:
        return f"The event time {self._spec.timestamp!r} of dataset {dataset.manifest.name!r}"

    def _of(self, dataset: Dataset, span: range | None = None, *, empty: bool = False) -> Iterator[pa.Table]:
        """Read the columns of a dataset, with event times in UTC.

        :param span: positions of the rows; by default all rows
        :param empty: whether to return a single table without rows
        """
        schema = dataset.schema
        lacking = {
            name
            for name, kind in self.types.items()
            if name in self._columns and (name not in schema.names or not schema.field(name).type.equals(kind))
        }
        columns = [name for name in self._columns if name not in lacking]
        dataset.require_columns(columns)
        tables = (
            [pa.schema([schema.field(name) for name in columns]).empty_table()]
            if empty
            else (pa.Table.from_batches([batch]) for batch in dataset.batches(columns=columns, span=span))
        )
        timestamp = self._spec.timestamp
        for table in tables:
            for name in lacking:
                table = table.append_column(name, pa.nulls(table.num_rows, self.types[name]))
            times = as_utc(table[timestamp], self._event_time(dataset))
            yield pa.table({name: times if name == timestamp else table[name] for name in self._columns})

    def _labelled(self, table: pa.Table, seen: Seen) -> pa.Table:
        if self._spec.label is None:
            return table.select(self._wanted)
        label, infinite = _label(self._spec, table)
        seen.infinite += infinite
        labelled = table.select(self._wanted).append_column(self._spec.label.name, label)
        return labelled.filter(pc.is_valid(label)) if label.null_count else labelled


class Times(NamedTuple):
    """A range of event times in microseconds since 1970. ``first`` is included, and ``end`` is not.

    ``None`` is a range without this bound.
    """

    first: int | None
    end: int | None

    def include(self, times: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return whether each event time is in the range; null for an event without a time."""
        micros = times.cast(pa.int64())
        found = pc.is_valid(micros)
        if self.first is not None:
            found = pc.and_(found, pc.greater_equal(micros, self.first))
        return found if self.end is None else pc.and_(found, pc.less(micros, self.end))


def in_order(
    events: Iterable[pa.Table], schema: pa.Schema, spec: TrainingSetSpec, connect: Connect = relational.connect_bounded
) -> Iterator[pa.Table]:
    """Sort events by time, and then by the other columns. Equal events keep their order.

    :param schema: the columns of the events; columns of dictionary type are returned as their values
    :param connect: function that opens the database that sorts
    """
    schema = as_values(schema)
    fields = {f"c{i}": field for i, field in enumerate(schema) if not pa.types.is_null(field.type)}
    others = [name for name, field in fields.items() if not pa.types.is_nested(field.type)]
    time = next(name for name in others if fields[name].name == spec.timestamp)
    kinds = {name: _sortable(field.type) for name, field in fields.items()}

    def numbered() -> Iterator[pa.RecordBatch]:
        start = 0
        for table in events:
            for batch in table.to_batches():
                columns = [batch.column(field.name).cast(kinds[name]) for name, field in fields.items()]
                numbers = pa.array(np.arange(start, start + batch.num_rows))
                yield pa.RecordBatch.from_arrays([*columns, numbers], [*fields, "n"])
                start += batch.num_rows

    read = pa.schema([*kinds.items(), ("n", pa.int64())])
    order = ", ".join(f"{name} NULLS LAST" for name in dict.fromkeys([time, *others, "n"]))
    sql = f"SELECT {', '.join(fields)} FROM events ORDER BY {order}"  # noqa: S608 - the names are generated here
    with connect(spec.memory_limit) as connection:
        for batch in relational.stream(connection, sql, {"events": (read, numbered())}):
            columns = {
                field.name: batch.column(name).cast(kinds[name]).cast(field.type) for name, field in fields.items()
            }
            nulls = pa.nulls(batch.num_rows)
            yield pa.table([columns.get(field.name, nulls) for field in schema], schema=schema)


def _sortable(kind: pa.DataType) -> pa.DataType:
    """Return a type to which values of the type ``kind`` are cast, so that DuckDB sorts them and keeps every digit."""
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_duration(kind) or ((pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns"):
        return pa.int64()
    return kind


def with_numbers(events: Rows, names: Collection[str], whole: Collection[str] | None = None) -> Rows:
    """Convert each decimal column to ``int64`` if its values are whole and fit into 64 bits, otherwise to ``double``.

    :param names: names of columns. Columns of other types stay as they are
    :param whole: the decimal columns to convert to ``int64``, if ``events`` are only a part of all events; by default,
        the values of ``events`` decide
    """
    for name in names:
        if name in events.column_names and pa.types.is_decimal(events.schema.field(name).type):
            if whole is not None:
                is_whole = name in whole
            else:
                is_whole = all(are_whole(batch.column(0)) for batch in events.select([name]).to_batches())
            events = events.converted(
                name, pa.int64() if is_whole else pa.float64(), _to_integers if is_whole else as_doubles
            )
    return events


def are_whole(decimals: Any) -> bool:
    """Return whether all values of a column of decimals are whole and fit into 64 bits."""
    return bool(as_numbers(decimals).type.equals(pa.int64()))


def _to_integers(values: pa.Array) -> pa.Array:
    return pc.cast(values, pa.int64())


def _label_name(spec: TrainingSetSpec) -> str:
    return spec.label.name if spec.label is not None else ""


def _first_types(datasets: Sequence[Dataset], names: Collection[str]) -> dict[str, pa.DataType]:
    """Return the type of each column in the first dataset that has it; float64 if no dataset has the column."""
    found: dict[str, pa.DataType] = dict.fromkeys(sorted(names), pa.float64())
    for dataset in reversed(datasets):
        found |= {name: dataset.schema.field(name).type for name in found if name in dataset.schema.names}
    return found


def _label(spec: TrainingSetSpec, table: pa.Table) -> tuple[pa.ChunkedArray, int]:
    """Return the label of each event, and the number of infinite labels.

    A label is null if a column of the label's expression is null. Booleans become 1 and 0, as ONNX requires, and -0.0
    becomes 0.0.

    :raises SpecError: the labels are not numbers, booleans or text
    """
    assert spec.label is not None
    if spec.label.expression is None:
        label = table[spec.label.name]
    else:
        label = expressions.evaluate(spec.label.expression, table)
        label = label if isinstance(label, pa.ChunkedArray) else pa.chunked_array([label])
    if pa.types.is_boolean(label.type):
        return label.cast(pa.int64()), 0
    label = as_stored(label, f"The label {spec.label.name!r}")
    kind = label.type
    if pa.types.is_floating(kind):
        infinite = pc.sum(pc.is_inf(label)).as_py() or 0
        # The sum has no -0.0, which Arrow counts as a value of its own.
        return pc.if_else(pc.is_nan(label), pa.scalar(None, kind), pc.add(label, pa.scalar(0, kind))), infinite
    if not (pa.types.is_integer(kind) or pa.types.is_decimal(kind) or is_text(kind)):
        raise SpecError(
            f"The label {spec.label.name!r} has the type {kind}. Set `label` to a column or expression whose "
            "values are numbers, booleans or text."
        )
    return label, 0
