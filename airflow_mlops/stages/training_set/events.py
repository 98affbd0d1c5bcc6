"""Reads the events of a training set, and computes the label of each event."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.contract import Task
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import EmptyWindowError, SchemaError, SpecError, TrainingError
from airflow_mlops.data import expressions
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.types import as_numbers, as_stored, concatenated
from airflow_mlops.stages.training_set.spec import TrainingSetSpec

# An integer label with more distinct values than this is a quantity, so the ML task is regression.
_MOST_CLASSES = 20


def read_events(
    spec: TrainingSetSpec, datasets: Sequence[Dataset], join_columns: list[str], broken: Collection[str] = ()
) -> tuple[pa.Table, dict[str, int]]:
    """Read the events that have a label, sorted by event time and then by the other columns.

    :param datasets: the datasets that ``spec.entities`` selects
    :param join_columns: columns that the join of features needs in addition to the event time
    :param broken: columns that need not exist in every dataset. They are null in the rows of a dataset that lacks them,
        or that has them in another type than the first dataset that has them
    :return: the events, and the number of rows that were left out, by reason (``label_unknown``)
    :raises EmptyWindowError: the datasets have no rows
    :raises SchemaError: an event time is null, or a column has different types in different windows
    :raises TrainingError: the label of every event is null
    """
    operands = sorted(spec.label_columns)
    wanted = list(dict.fromkeys([*join_columns, *spec.keys, spec.timestamp, *spec.columns, *spec.watched]))
    name = datasets[0].manifest.name
    types = _first_types(datasets, {*broken} & {*spec.columns} - {*join_columns, *spec.keys, *operands, spec.timestamp})
    columns = list(dict.fromkeys([*wanted, *operands]))
    tables = [_with_nulls(dataset, columns, spec.timestamp, types) for dataset in datasets]
    table = concatenated(tables, f"The windows of dataset {name!r}", "Ingest the windows again with equal types.")
    if not table.num_rows:
        raise EmptyWindowError(
            f"Dataset {name!r} has no rows, so there are no events to join features to. Set `window` to a window with rows."
        )
    if nulls := table[spec.timestamp].null_count:
        raise SchemaError(
            f"The event time {spec.timestamp!r} is null in {counted(nulls, 'row')} of dataset {name!r}, but a "
            "point-in-time join needs the time of every event. Drop or correct these rows upstream."
        )
    dropped = {"label_unknown": 0}
    if spec.label is not None:
        label = _label(spec, table)
        labelled = pc.is_valid(label)
        dropped["label_unknown"] = table.num_rows - (pc.sum(labelled).as_py() or 0)
        table = table.select(wanted).append_column(spec.label.name, label).filter(labelled)
        if not table.num_rows:
            raise TrainingError(
                f"The label {spec.label.name!r} of all {len(labelled):,} events is null, so it is not known yet. Build "
                "the training set from an older window."
            )
    others = [name for name in table.column_names if name != spec.timestamp and _is_sortable(table[name])]
    return table.take(
        pc.sort_indices(table, [(pc.field(name), "ascending") for name in (spec.timestamp, *others)])
    ), dropped


def _first_types(datasets: Sequence[Dataset], names: Collection[str]) -> dict[str, pa.DataType]:
    """Return the type of each column in the first dataset that has it; float64 if no dataset has the column."""
    found: dict[str, pa.DataType] = dict.fromkeys(sorted(names), pa.float64())
    for dataset in reversed(datasets):
        found |= {name: dataset.schema.field(name).type for name in found if name in dataset.schema.names}
    return found


def _with_nulls(dataset: Dataset, columns: list[str], timestamp: str, types: Mapping[str, pa.DataType]) -> pa.Table:
    """Read columns of a dataset of events. Columns of ``types`` that it lacks, or has in another type, are null."""
    if not types:
        return _read(dataset, columns, timestamp)
    schema = dataset.schema
    lacking = {
        name for name, kind in types.items() if name not in schema.names or not schema.field(name).type.equals(kind)
    }
    table = _read(dataset, [name for name in columns if name not in lacking], timestamp)
    for name in lacking:
        table = table.append_column(name, pa.nulls(table.num_rows, types[name]))
    return table.select(columns)


def _read(dataset: Dataset, columns: list[str], timestamp: str) -> pa.Table:
    """Read columns of a dataset of events, and convert the event times to UTC timestamps."""
    table = dataset.table(columns=columns)
    times = as_utc(table[timestamp], f"The event time {timestamp!r} of dataset {dataset.manifest.name!r}")
    return table.set_column(table.schema.get_field_index(timestamp), timestamp, times)


def _is_sortable(column: pa.ChunkedArray) -> bool:
    return not (pa.types.is_nested(column.type) or pa.types.is_null(column.type))


def _label(spec: TrainingSetSpec, table: pa.Table) -> pa.ChunkedArray:
    """Return the label of each event. It is null if a column of the label's expression is null.

    Booleans become 1 and 0, as ONNX requires.

    :raises TrainingError: a label is infinite
    :raises SpecError: the labels are not numbers, booleans or text
    """
    assert spec.label is not None
    if spec.label.expression is None:
        label = table[spec.label.name]
    else:
        label = expressions.evaluate(spec.label.expression, table)
        label = label if isinstance(label, pa.ChunkedArray) else pa.chunked_array([label])
    if pa.types.is_boolean(label.type):
        return label.cast(pa.int64())
    label = as_numbers(as_stored(label, f"The label {spec.label.name!r}"))
    if pa.types.is_floating(label.type):
        infinite = pc.sum(pc.is_inf(label)).as_py() or 0
        if infinite:
            raise TrainingError(
                f"The label {spec.label.name!r} is infinite in {counted(infinite, 'row')}. "
                "Correct the computation of the label, which may divide by zero."
            )
        return pc.if_else(pc.is_nan(label), pa.scalar(None, label.type), label)
    if not (pa.types.is_integer(label.type) or pa.types.is_string(label.type) or pa.types.is_large_string(label.type)):
        raise SpecError(
            f"The label {spec.label.name!r} has the type {label.type}. Set `label` to a column or expression whose "
            "values are numbers, booleans or text."
        )
    return label


def infer_task(label: pa.ChunkedArray) -> Task:
    """Return the ML task that the values of the label imply.

    Floating-point numbers are ``binary`` if the values are 0 and 1, otherwise ``regression``. Text and integers with at
    most two distinct values are ``binary``. Text with more values, and integers with 3 to 20 values, are
    ``multiclass``. Integers with more values are ``regression``.

    :param label: the label of each event
    """
    distinct = pc.count_distinct(label).as_py()
    if pa.types.is_floating(label.type):
        return "binary" if set(label.unique().to_pylist()[:3]) == {0.0, 1.0} else "regression"
    if distinct <= 2:
        return "binary"
    if pa.types.is_integer(label.type) and distinct > _MOST_CLASSES:
        return "regression"
    return "multiclass"


def require_classes(label: pa.ChunkedArray, task: Task, name: str, where: str) -> None:
    """Check that the label has at least two distinct values and, for a binary task, exactly two.

    :param label: the label of each row
    :param task: ML task: ``binary``, ``multiclass`` or ``regression``
    :param name: name of the label, for the error message
    :param where: description of the rows for the error message, such as ``the split part 'test'``
    :raises TrainingError: all rows have the same label
    :raises SpecError: the ML task is binary, but the label has more than two distinct values
    """
    distinct = pc.count_distinct(label).as_py()
    if distinct < 2:
        raise TrainingError(
            f"The label {name!r} is {label[0].as_py()!r} in all {len(label):,} rows of {where}, so a model cannot be "
            "trained or evaluated on them. Set a longer `window` or a different `split`, or correct `label`."
        )
    if task == "binary" and distinct > 2:
        raise SpecError(
            f"The label {name!r} has {distinct} different values, so the ML task is not binary. Omit `task`, or "
            "correct `label`."
        )


def positive_class(label: pa.ChunkedArray, declared: Any, name: str) -> Any:
    """Return the label value of the positive class of a binary task.

    :param label: the label of each row, with two distinct values
    :param declared: the positive class that the user set, as a value or as the text of a value, because templates
        render to text; ``None`` for the last value in sorted order
    :param name: name of the label, for the error message
    :raises SpecError: ``declared`` is not one of the two values
    """
    labels = sorted(label.unique().to_pylist())
    if declared is None:
        return labels[-1]
    found = [value for value in labels if value == declared] or [value for value in labels if str(value) == declared]
    if len(found) != 1:
        raise SpecError(
            f"`positive` is {declared!r}, but the label {name!r} has the values {' and '.join(map(repr, labels))}. Set "
            "`positive` to one of them."
        )
    return found[0]


def positive_rate(label: pa.ChunkedArray, positive: Any) -> float:
    """Return the share of rows (0 to 1) that have the label ``positive``."""
    return round((pc.sum(pc.equal(label, positive)).as_py() or 0) / len(label), 6)
