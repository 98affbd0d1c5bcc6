"""Read the values of series, and check that they have regular times without duplicates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.durations import period_of_one_unit
from airflow_mlops.core.errors import SchemaError
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.sample_weights import is_number
from airflow_mlops.data.selection import have_dates
from airflow_mlops.data.spool import as_values
from airflow_mlops.data.types import as_doubles, common_schema, conformed
from airflow_mlops.stages.forecast_rows.grid import Grid
from airflow_mlops.stages.forecast_rows.spec import ForecastRowsSpec

LARGEST = 1e150
"""The largest value of a series. The squares of larger values are infinite."""

NUMBER, VALUE = "p", "v"
"""The names of the columns that hold the number of each time on the grid, and the value."""


class History:
    """The values of many series, read in batches.

    The columns of a batch are those of the series (``s0``, ``s1`` and so on), :data:`NUMBER`, :data:`VALUE` and the columns
    that are known in advance (``k0``, ``k1`` and so on).

    :ivar grid: the regular times
    :ivar rest: distance of each time from the start of its step, see :meth:`.Grid.numbers`. It is the same for all
        times. It is known after the first batch was read
    :ivar newest: number of the newest time with a value; ``None`` if there is no value. It is known after all batches
        were read
    :ivar rows: number of rows. It is known after all batches were read
    :raises SchemaError: a column is absent, or its type cannot be used
    """

    def __init__(self, spec: ForecastRowsSpec, datasets: Sequence[Dataset]) -> None:
        self._spec, self._datasets = spec, datasets
        self._name = datasets[0].manifest.name
        self._what = f"The windows of dataset {self._name!r}"
        columns = [*spec.keys, spec.value, *spec.known]
        for dataset in datasets:
            dataset.require_columns(columns)
        own = [pa.schema([dataset.schema.field(name) for name in columns]) for dataset in datasets]
        self._common = as_values(common_schema(own, self._what, "Ingest the windows again with equal types."))
        unit, count = period_of_one_unit(spec.every)
        self.grid = Grid(unit, count, spec.zone, have_dates(datasets, spec.time))
        self.rest = self.rows = 0
        self.newest: int | None = None
        self._require_types()

    def _require_types(self) -> None:
        spec, kinds = self._spec, {field.name: field.type for field in self._common}
        if not (is_number(kinds[spec.value]) or pa.types.is_null(kinds[spec.value])):
            raise SchemaError(
                f"The value {spec.value!r} of dataset {self._name!r} has the type {kinds[spec.value]}, but only numbers can be "
                "forecast. Convert it where the data is ingested."
            )
        for name in spec.series:
            if pa.types.is_nested(kinds[name]) or pa.types.is_floating(kinds[name]) or pa.types.is_null(kinds[name]):
                raise SchemaError(
                    f"Column {name!r} of dataset {self._name!r} has the type {kinds[name]}, which cannot identify a series. Use columns "
                    "of text, integers or booleans."
                )
        for name in spec.known:
            if pa.types.is_nested(kinds[name]):
                raise SchemaError(
                    f"The known column {name!r} of dataset {self._name!r} has the type {kinds[name]}, which cannot be a feature. Remove "
                    "it from `known`."
                )

    def types(self, names: Sequence[str]) -> list[pa.DataType]:
        """Return the types of columns of the dataset."""
        return [self._common.field(name).type for name in names]

    @property
    def schema(self) -> pa.Schema:
        """Return the columns of the batches."""
        spec = self._spec
        series = [(f"s{n}", kind) for n, kind in enumerate(self.types(spec.series))]
        known = [(f"k{n}", kind) for n, kind in enumerate(self.types(spec.known))]
        return pa.schema([*series, (NUMBER, pa.int64()), (VALUE, pa.float64()), *known])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read all rows, and check each batch.

        :raises SchemaError: a series or a time is null, a value is infinite or too large, or the times are not regular
        """
        spec = self._spec
        first: int | None = None
        for dataset in self._datasets:
            for batch in dataset.batches(columns=self._common.names):
                times = as_utc(batch[spec.time], f"Column {spec.time!r} of dataset {self._name!r}", first_row=self.rows)
                rows = conformed(batch.drop_columns([spec.time]), self._common.remove(self._position), self._what)
                self._require_present([*(rows[name] for name in spec.series), times])
                value = _doubles(rows[spec.value])
                if huge := pc.sum(pc.greater(pc.abs(value), LARGEST)).as_py():
                    raise SchemaError(
                        f"The value {spec.value!r} of dataset {self._name!r} is infinite or above {LARGEST:g} in {counted(huge, 'row')}. "
                        "Correct it where the data is ingested, or make it null."
                    )
                numbers, rest = self.grid.numbers(times.cast(pa.int64()).to_numpy(zero_copy_only=False))
                if len(rest):
                    first = int(rest[0]) if first is None else first
                    other = rest[rest != first]
                    self.grid.require_regular(first, int(other[0]) if len(other) else first, self._times)
                    self.rest = first
                self._follow(numbers, value)
                self.rows += len(numbers)
                columns = [rows[name] for name in (*spec.series, *spec.known)]
                parts = [*columns[: len(spec.series)], pa.array(numbers), value, *columns[len(spec.series) :]]
                yield pa.RecordBatch.from_arrays(parts, schema=self.schema)

    @property
    def _position(self) -> int:
        return int(self._common.get_field_index(self._spec.time))

    @property
    def _times(self) -> str:
        return f"Column {self._spec.time!r} of dataset {self._name!r}"

    def _follow(self, numbers: Any, value: pa.Array) -> None:
        valued = numbers[pc.is_valid(value).to_numpy(zero_copy_only=False)]
        if len(valued):
            self.newest = max(int(valued.max()), self.newest if self.newest is not None else int(valued.max()))

    def _require_present(self, keys: Sequence[Any]) -> None:
        for name, values in zip(self._spec.keys, keys, strict=True):
            if values.null_count:
                raise SchemaError(
                    f"Column {name!r} of dataset {self._name!r} is null in {counted(values.null_count, 'row')}, but each value needs a "
                    "series and a time. Drop or correct these rows where the data is ingested."
                )


def _doubles(values: pa.Array) -> pa.Array:
    """Convert numbers to float64. NaN becomes null, because a NaN is a missing value."""
    found = as_doubles(values)
    return pc.if_else(pc.is_nan(found), pa.scalar(None, pa.float64()), found)
