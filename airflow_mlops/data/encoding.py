"""Choose how columns are encoded in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Parquet stops building a dictionary at this size in bytes.
_DICTIONARY_BYTES = 128 << 10
# The largest and the smallest number of values from which the share of distinct values is estimated.
_SAMPLE, _FEWEST = 4_096, 1_024
_MOSTLY_DISTINCT = 0.9


def parquet_options(rows: pa.RecordBatch | pa.Table) -> dict[str, Any]:
    """Return arguments for ``pyarrow.parquet.ParquetWriter``: the compression and the columns with dictionaries.

    By default, Parquet builds a dictionary for each column until the dictionary is too large. For columns of mostly
    distinct values, such as measurements, the dictionaries take half of the time of writing and make files larger.

    :param rows: first rows of the file. Columns whose first values are mostly distinct get no dictionary
    """
    return {
        "compression": "zstd",
        "compression_level": 1,
        "dictionary_pagesize_limit": _DICTIONARY_BYTES,
        "use_dictionary": [
            path
            for name, column in zip(rows.schema.names, rows.slice(0, _SAMPLE).columns, strict=True)
            for path, values in _leaves(name, column)
            if not _mostly_distinct(values.slice(0, _SAMPLE))
        ],
    }


def _leaves(path: str, values: pa.Array | pa.ChunkedArray) -> Iterator[tuple[str, pa.Array | pa.ChunkedArray]]:
    """Yield the path and the values of each column of the Parquet file. Lists and structs are stored as inner columns."""
    kind = values.type
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", pc.struct_field(values, field.name))
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", pc.list_flatten(values))
    else:
        yield path, values


def _mostly_distinct(values: pa.Array | pa.ChunkedArray) -> bool:
    present = len(values) - values.null_count
    if present < _FEWEST or pa.types.is_dictionary(values.type):
        return False
    try:
        return bool(pc.count_distinct(values).as_py() > _MOSTLY_DISTINCT * present)
    except pa.ArrowNotImplementedError:
        # Arrow does not count the distinct values of rare types, such as UUIDs.
        return False
