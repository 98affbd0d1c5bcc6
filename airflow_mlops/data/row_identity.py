"""Row ids: hashes that identify the same row in different datasets."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pandas.util import hash_array

from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.spool import BATCH_ROWS
from airflow_mlops.data.types import decimal_text, double_text, is_binary

if TYPE_CHECKING:
    from airflow_mlops.data.datasets import Dataset
    from airflow_mlops.data.spool import Rows

# Number of rows whose texts are in memory at once.
_SLICE_ROWS = BATCH_ROWS

Numbers = np.ndarray[Any, Any]


def identity_columns(dataset: Dataset) -> list[str]:
    """Return the columns that identify a row of a training set.

    These columns are the keys and the event time or, if the training set has no keys, all columns except the label.
    """
    details = dataset.manifest.details
    if keys := details.get("keys"):
        return [*keys, *([details["timestamp"]] if details.get("timestamp") else [])]
    return [name for name in dataset.manifest.column_names if name != details.get("label")]


def shared_rows(dataset: Dataset, part: str, other: Dataset, other_part: str | None) -> int | None:
    """Count the rows of a split part that are also rows of another training set, by their identity.

    :param dataset: a training set
    :param part: name of its split part
    :param other: the other training set
    :param other_part: name of the split part of ``other``; ``None`` for all its rows
    :return: ``None`` if the two training sets identify rows by different columns
    """
    keys = identity_columns(dataset)
    if set(keys) != set(identity_columns(other)):
        return None
    tables = dataset.table(part, keys), other.table(other_part, keys)
    # Equal bytes have the same hash only if the columns of both training sets are hashed in the same form.
    texts = [name for name in keys if all(_is_text(table, name) for table in tables)]
    here, there = (np.concatenate([np.empty(0, np.uint64), *_hashed(table, keys, texts)]) for table in tables)
    return int(np.isin(here, there).sum())


def row_ids(table: pa.Table | Rows, columns: Sequence[str], utf8: Collection[str] | None = None) -> Numbers:
    """Compute a 64-bit hash of each row's values in ``columns``.

    The hash of a row does not depend on other rows, except in columns of bytes: if one value of the column is not
    UTF-8, all its values are hashed in another form. Equal values of types with different widths (int32, int64) have
    the same hash.

    :param table: the rows
    :param columns: names of the columns
    :param utf8: names of the columns of bytes whose values are UTF-8 in all rows. It must be set if ``table`` has only a
        part of the rows. By default, the values of ``table`` decide
    :return: an array of uint64 with one hash per row
    """
    parts = list(row_id_batches(table, columns, utf8))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def row_id_batches(
    table: pa.Table | Rows, columns: Sequence[str], utf8: Collection[str] | None = None
) -> Iterator[Numbers]:
    """Compute the ids of rows, see :func:`row_ids`, in arrays of ``BATCH_ROWS`` ids. The last array may be
    smaller."""
    table = table.select(list(dict.fromkeys(columns)))
    texts = [
        name
        for name in columns
        if (name in utf8 if utf8 is not None and has_bytes(table.schema.field(name).type) else _is_text(table, name))
    ]
    yield from _hashed(table, columns, texts)


def has_bytes(kind: pa.DataType) -> bool:
    """Return whether a column of this type has bytes, or a dictionary of bytes."""
    return is_binary(kind.value_type if pa.types.is_dictionary(kind) else kind)


def are_utf8(column: pa.ChunkedArray) -> bool:
    """Return whether all values of a column of bytes are UTF-8."""
    return _is_text(pa.table({"values": column}), "values")


def _hashed(table: pa.Table | Rows, columns: Sequence[str], texts: Collection[str]) -> Iterator[Numbers]:
    """Hash the rows slice by slice, see :func:`_ids`."""
    for start in range(0, table.num_rows, _SLICE_ROWS):
        yield _ids(table.slice(start, _SLICE_ROWS), columns, texts)


def _ids(table: pa.Table, columns: Sequence[str], texts: Collection[str]) -> Numbers:
    """Hash some rows.

    :param texts: the columns that Arrow can convert to text
    """
    found = [
        pc.binary_join_element_wise(
            "=", _as_text(table[name]) if name in texts else _as_repr(table[name]), ""
        ).fill_null("~")
        for name in columns
    ]
    joined = pc.binary_join_element_wise(*found, "\x1f") if len(found) > 1 else found[0]
    # SipHash of the UTF-8 bytes. Most texts are distinct, so hashing equal texts only once would not save time.
    ids: Numbers = hash_array(joined.to_numpy(), categorize=False)
    return ids


def _is_text(table: pa.Table | Rows, name: str) -> bool:
    """Return whether Arrow can convert all values of a column to text.

    Arrow cannot convert lists, and bytes that are not UTF-8.
    """
    kind = table.schema.field(name).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    column = table.select([name])
    # Whether bytes can be converted depends on their values. For other types, only the type matters.
    starts = range(0, table.num_rows, _SLICE_ROWS) if is_binary(kind) else [0]
    try:
        for start in starts:
            _as_text(column.slice(start, _SLICE_ROWS if is_binary(kind) else 0)[name])
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _as_repr(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array([None if v is None else repr(v) for v in column.to_pylist()], pa.string())])


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = as_utc(column, "A column that identifies rows").cast(pa.int64())
    elif pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    elif pa.types.is_decimal(kind):
        return decimal_text(column)
    elif pa.types.is_floating(kind):
        return double_text(column)
    return column.cast(pa.string())
