"""Finds INT96 timestamps in Parquet files that Arrow would read as different times.

INT96 stores a day and a time of day in 96 bits. Arrow converts it to 64 bits of the requested unit without a check for
overflow. In microseconds, a time in the year 586,500 would become a time in the year 2024. In seconds, every INT96
timestamp fits into 64 bits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from airflow_mlops.data.types import is_list

_PER_SECOND = {"us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Overflow:
    """An INT96 timestamp that does not fit into 64 bits.

    :param column: name of the column. The timestamp can be in a list, map or struct
    :param row: row number in the file, from 1
    :param seconds: the timestamp in seconds since 1970
    """

    column: str
    row: int
    seconds: int


def find_overflow(
    source: str | pa.NativeFile,
    metadata: pq.FileMetaData,
    columns: Collection[str],
    *,
    unit: Literal["us", "ns"] = "us",
    batch_rows: int = 16_384,
) -> Overflow | None:
    """Return the first INT96 timestamp of a Parquet file that overflows in a unit; ``None`` if all timestamps fit.

    Only the columns with INT96 timestamps are read.

    :param source: path of the file, or the opened file
    :param metadata: metadata of the file
    :param columns: names of the columns to check
    :param unit: unit in which the timestamps are counted from 1970 in 64 bits
    :param batch_rows: number of rows that are read at once
    """
    leaves = (metadata.schema.column(number) for number in range(metadata.num_columns))
    if all(leaf.physical_type != "INT96" for leaf in leaves):
        return None
    with pq.ParquetFile(source, metadata=metadata, coerce_int96_timestamp_unit="s") as parquet:
        # Parquet has no other type that Arrow would read in seconds.
        names = [field.name for field in parquet.schema_arrow if field.name in columns and _has_seconds(field.type)]
        limit = (2**63 - 1) // _PER_SECOND[unit] - 1
        row = 0
        for batch in parquet.iter_batches(batch_rows, columns=names) if names else ():
            for name in names:
                if _misfit(batch.column(name), limit) is not None:
                    index, seconds = _first_misfit(batch.column(name), limit)
                    return Overflow(name, row + index + 1, seconds)
            row += batch.num_rows
    return None


def _has_seconds(kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind):
        return bool(kind.unit == "s")
    return any(_has_seconds(kind.field(number).type) for number in range(kind.num_fields))


def _first_misfit(array: pa.Array, limit: int) -> tuple[int, int]:
    found = ((index, _misfit(array.slice(index, 1), limit)) for index in range(len(array)))
    return next((index, seconds) for index, seconds in found if seconds is not None)


def _misfit(array: pa.Array, limit: int) -> int | None:
    """Return a time in an array, in seconds, whose absolute value exceeds ``limit``; ``None`` if there is none."""
    for seconds in _seconds(array):
        bounds = pc.min_max(seconds).as_py()
        for value in (bounds["min"], bounds["max"]):
            if value is not None and abs(value) > limit:
                return int(value)
    return None


def _seconds(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the timestamps in seconds of an array, also in lists, maps and structs, as integers."""
    kind = array.type
    if pa.types.is_timestamp(kind) and kind.unit == "s":
        yield array.view(pa.int64())
    elif pa.types.is_struct(kind):
        for inner in array.flatten():
            yield from _seconds(inner)
    elif is_list(kind):
        yield from _seconds(array.flatten())
    elif pa.types.is_map(kind):
        yield from _seconds(array.cast(pa.list_(kind.field(0).with_nullable(False))).flatten())
