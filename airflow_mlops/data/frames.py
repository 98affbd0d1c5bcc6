"""Conversion of Arrow tables to pandas that does not round ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.data.types import as_doubles

if TYPE_CHECKING:
    import pandas as pd

# Doubles hold all integers up to this number.
_LARGEST_EXACT = 2**53


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Convert a table to a DataFrame without changing large integers.

    pandas converts integers with nulls to doubles by default, which changes ids beyond 2**53. Such columns become
    ``Int64`` or ``UInt64`` instead. Decimals become doubles, so that they can be compared with other numbers. Columns
    of whole decimals beyond 2**53 are usually ids, and become Python integers.
    """
    import pandas as pd

    columns = {name: _column(table[name]) for name in table.column_names}
    return pd.DataFrame(columns, columns=table.column_names) if columns else table.to_pandas()


def _column(values: pa.ChunkedArray) -> pd.Series:
    import pandas as pd

    kind = values.type
    if pa.types.is_decimal(kind):
        if kind.scale > 0 or _is_exact(values):
            return as_doubles(values).to_pandas()
        integers = [None if value is None else int(value) for value in values.to_pylist()]
        return pd.Series(integers, dtype="object")
    if pa.types.is_integer(kind) and values.null_count and not _is_exact(values):
        whole = pd.UInt64Dtype() if pa.types.is_unsigned_integer(kind) else pd.Int64Dtype()
        return values.to_pandas(types_mapper={kind: whole}.get)
    return values.to_pandas()


def _is_exact(values: pa.ChunkedArray) -> bool:
    bounds = pc.min_max(values).as_py()
    return bounds["min"] is None or (bounds["min"] >= -_LARGEST_EXACT and bounds["max"] <= _LARGEST_EXACT)
