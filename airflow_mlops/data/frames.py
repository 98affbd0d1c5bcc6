"""Convert Arrow tables to pandas DataFrames without rounding large integers, such as ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.types import as_doubles

if TYPE_CHECKING:
    import pandas as pd

# Doubles hold all integers up to this number.
_LARGEST_EXACT = 2**53


@dataclass(frozen=True)
class ColumnFacts:
    """The properties of a column's values that determine its pandas type.

    :param has_nulls: whether at least one value is null
    :param is_exact: whether doubles represent all values exactly; always true for types other than integers and
        decimals without decimal places
    """

    has_nulls: bool = False
    is_exact: bool = True

    def with_values(self, values: Any) -> ColumnFacts:
        """Return these properties, updated with further values of the column.

        :param values: an Arrow array or chunked array
        """
        kind = values.type
        is_whole = pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0)
        return ColumnFacts(
            self.has_nulls or values.null_count > 0, self.is_exact and (not is_whole or _is_exact(values))
        )


def as_frame(table: pa.Table, facts: Mapping[str, ColumnFacts] | None = None) -> pd.DataFrame:
    """Convert a table to a DataFrame without changing large integers.

    Arrow's own conversion changes integers with nulls to doubles, which rounds ids beyond 2**53, and NumPy rounds
    such ids when it compares them with a double. Columns that contain such ids become ``Int64`` or ``UInt64``
    instead. Decimals become doubles, so that they can be compared with other numbers. A column of whole decimals
    that contains numbers beyond 2**53 usually contains ids, and becomes Python integers.

    :param table: the table
    :param facts: properties of each column over all rows, by name, so that tables with parts of the rows get equal
        pandas types; by default, they are derived from the table
    """
    import pandas as pd

    columns = {
        name: _column(table[name], facts[name] if facts is not None else ColumnFacts().with_values(table[name]))
        for name in table.column_names
    }
    return pd.DataFrame(columns, columns=table.column_names) if columns else table.to_pandas()


def _column(values: pa.ChunkedArray, facts: ColumnFacts) -> pd.Series:
    import pandas as pd

    kind = values.type
    if pa.types.is_decimal(kind):
        if kind.scale > 0 or facts.is_exact:
            return as_doubles(values).to_pandas()
        integers = [None if value is None else int(value) for value in values.to_pylist()]
        return pd.Series(integers, dtype="object")
    if pa.types.is_integer(kind) and not facts.is_exact:
        whole = pd.UInt64Dtype() if pa.types.is_unsigned_integer(kind) else pd.Int64Dtype()
        return values.to_pandas(types_mapper={kind: whole}.get)
    if facts.has_nulls and pa.types.is_integer(kind):
        return values.to_pandas().astype("float64")
    if facts.has_nulls and pa.types.is_boolean(kind):
        return values.to_pandas().astype(object)
    return values.to_pandas()


def _is_exact(values: Any) -> bool:
    bounds = pc.min_max(values).as_py()
    return bounds["min"] is None or (bounds["min"] >= -_LARGEST_EXACT and bounds["max"] <= _LARGEST_EXACT)
