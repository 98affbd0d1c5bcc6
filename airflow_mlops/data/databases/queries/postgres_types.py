"""The types of PostgreSQL, and SQL expressions that return the same values in every driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.core.moments import FIRST, LAST
from airflow_mlops.data.moments import is_text
from airflow_mlops.data.relational import quoted
from airflow_mlops.data.types import DECIMAL_DIGITS, cast, decimals_of_text, one_sentence

# Types that all drivers return without loss, and their types in the dataset.
_PLAIN = {
    "bool": pa.bool_(), "int2": pa.int64(), "int4": pa.int64(), "int8": pa.int64(), "float8": pa.float64(),
    "text": pa.string(), "varchar": pa.string(), "bpchar": pa.string(), "name": pa.string(), "bytea": pa.binary(),
}  # fmt: skip
# Types that are converted in the query.
_CONVERTED = {"float4": ("float8", pa.float64()), "oid": ("int8", pa.int64())}
_TIMES = {"date": pa.date32(), "timestamp": pa.timestamp("us", "UTC"), "timestamptz": pa.timestamp("us", "UTC")}
_DAY = 86_400_000_000
_DIMENSIONS = "mlops_dimensions"
_OUTSIDE_OF_THE_YEARS = r"infinity|BC$|^\d{5}"


@dataclass(frozen=True)
class PostgresColumn:
    """A column of a query's result.

    :param name: name of the column
    :param type: name of the column type in ``pg_type``, such as ``int4``; for an array, the name of the element type
    :param is_array: whether the column contains arrays
    :param precision: declared number of digits of a ``numeric``; ``None`` if no precision is declared
    :param scale: declared number of digits after the decimal point of a ``numeric``; ``None`` if no scale is declared
    """

    name: str
    type: str
    is_array: bool = False
    precision: int | None = None
    scale: int | None = None

    @property
    def is_decimal(self) -> bool:
        """Return whether the column is stored as a decimal."""
        return self.type in ("numeric", "money") and not self.is_array

    @property
    def is_time(self) -> bool:
        """Return whether the column contains dates or timestamps."""
        return self.type in _TIMES and not self.is_array

    @property
    def stored(self) -> pa.DataType | None:
        """Return the Arrow type in the dataset; ``None`` for decimals if the scale depends on the values."""
        if self.is_decimal:
            if self.precision is None or self.scale is None or not 0 <= self.scale <= self.precision <= DECIMAL_DIGITS:
                return None
            return pa.decimal128(self.precision, self.scale)
        kind = _PLAIN.get(self.type) or (_CONVERTED[self.type][1] if self.type in _CONVERTED else None)
        if self.is_array:
            return pa.list_(kind or pa.string())
        return kind or _TIMES.get(self.type) or pa.string()

    def expression(self, as_text: bool) -> str:
        """Return the SQL expression that selects the column.

        :param as_text: whether to select the column as text, if some drivers return its type with a loss
        """
        name, array = quoted(self.name), "[]" if self.is_array else ""
        if as_text and (self.is_array or self.type not in _PLAIN):
            return f"{name}::text AS {name}"
        if self.type in _PLAIN or self.is_time:
            return name
        if self.type in _CONVERTED:
            return f"{name}::{_CONVERTED[self.type][0]}{array} AS {name}"
        if self.type == "money":
            return f"{name}::numeric{array}::text{array} AS {name}"
        return f"{name}::text{array} AS {name}"


class PostgresColumns:
    """The columns of a query's result.

    :param columns: the columns, in the order of the query
    :param declared: Arrow types that the user declared, by column
    :param times_as_text: whether to select dates and timestamps as text, because the driver does not return infinity
        unchanged
    """

    def __init__(
        self, columns: Sequence[PostgresColumn], declared: Mapping[str, pa.DataType], times_as_text: bool = False
    ) -> None:
        self._columns = columns
        self._declared = declared
        self._text = {name for name, kind in declared.items() if is_text(kind)}
        self._times_as_text = times_as_text
        self._arrays = [column for column in columns if column.is_array and column.name not in self._text]

    @property
    def width(self) -> int:
        """Return the number of columns without the array dimensions, which :meth:`query` selects at the end."""
        return len(self._columns)

    def is_settled(self) -> bool:
        """Return whether the types of all columns are known before the first row is read."""
        return all(column.stored is not None or column.name in self._declared for column in self._columns)

    def query(self, sql: str) -> str:
        """Return a query around ``sql`` that selects each column in a form that all drivers can read.

        The query also selects the number of dimensions of each array, in columns at the end.
        """
        columns = [
            column.expression(column.name in self._text or (column.is_time and self._times_as_text))
            for column in self._columns
        ]
        columns += [f"array_ndims({quoted(column.name)}) AS {_DIMENSIONS}_{i}" for i, column in enumerate(self._arrays)]
        # If the last line of the query contains a comment, the line break ends the comment.
        return f"SELECT {', '.join(columns)} FROM (\n{sql}\n) AS mlops_query"  # noqa: S608

    def convert(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Convert a batch of the result of :meth:`query` to the types of the dataset.

        :raises SchemaError: a date or timestamp is infinity, a decimal is NaN or has too many digits, or an array has
            several dimensions
        """
        self.require_one_dimension([batch.column(i).to_pylist() for i in range(len(self._columns), batch.num_columns)])
        arrays = [self._array(column, array) for column, array in zip(self._columns, batch.columns, strict=False)]
        return pa.RecordBatch.from_arrays(arrays, names=[column.name for column in self._columns])

    def require_one_dimension(self, found: Sequence[Sequence[int | None]]) -> None:
        """Check that no array has several dimensions.

        :param found: number of dimensions of each array, from the last columns of :meth:`query`, by column and row
        :raises SchemaError: an array has several dimensions
        """
        for column, values in zip(self._arrays, found, strict=True):
            dimensions = max((value for value in values if value is not None), default=0)
            if dimensions > 1:
                raise SchemaError(
                    f"Column {column.name!r} contains an array of {dimensions} dimensions, but only arrays of one "
                    f"dimension can be stored. Read the column as text with types={{{column.name!r}: 'string'}}, or "
                    "convert the arrays in `sql`."
                )

    def _array(self, column: PostgresColumn, array: pa.Array) -> pa.Array:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_null(array.type):
            return array if column.stored is None else array.cast(column.stored)
        if column.is_time and column.name not in self._text:
            _require_in_range(column.name, array)
        if column.name in self._declared:
            return array
        if column.is_decimal:
            return _decimals(column, array)
        return cast(array, column.stored, f"Column {column.name!r}")


def _require_in_range(name: str, array: pa.Array) -> None:
    if pa.types.is_string(array.type):
        outside = pc.match_substring_regex(array, _OUTSIDE_OF_THE_YEARS)
    elif pa.types.is_date32(array.type):
        days = array.view(pa.int32())
        outside = pc.or_(pc.less(days, FIRST // _DAY), pc.greater(days, LAST // _DAY))
    else:
        micros = array.view(pa.int64())
        outside = pc.or_(pc.less(micros, FIRST), pc.greater(micros, LAST))
    if pc.any(outside).as_py():
        raise SchemaError(
            f"Column {name!r} contains infinity, or a time outside of the years 1 to 9999. Return null or a bound "
            f"instead, for example with NULLIF({quoted(name)}, 'infinity') or LEAST({quoted(name)}, '9999-12-31') in "
            "`sql`."
        )


def _decimals(column: PostgresColumn, text: pa.Array) -> pa.Array:
    """Convert text to decimals. If no scale is declared, the scale is the largest number of decimals in ``text``.

    :raises SchemaError: a number has too many digits
    """
    kind = column.stored
    if kind is None:
        decimals = pc.if_else(
            pc.match_substring(text, "."),
            pc.subtract(pc.subtract(pc.utf8_length(text), pc.find_substring(text, ".")), 1),
            0,
        )
        kind = pa.decimal128(DECIMAL_DIGITS, min(pc.max(decimals).as_py() or 0, DECIMAL_DIGITS))
    try:
        return decimals_of_text(text, kind)
    except pa.ArrowInvalid as error:
        raise SchemaError(
            f"Column {column.name!r} contains a number that a decimal of {DECIMAL_DIGITS} digits cannot hold "
            f"({one_sentence(error)}). Read the column as floating-point numbers with "
            f"types={{{column.name!r}: 'float64'}}, as text with 'string', or round the numbers in `sql`."
        ) from None


def numeric_modifier(modifier: int) -> tuple[int | None, int | None]:
    """Return the precision and the scale of a ``numeric`` column. Both are ``None`` if they are not declared.

    :param modifier: type modifier of the column (``atttypmod``)
    """
    if modifier < 4:
        return None, None
    modifier -= 4
    return (modifier >> 16) & 0xFFFF, ((modifier & 0x7FF) ^ 1024) - 1024
