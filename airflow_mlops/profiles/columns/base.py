"""The protocol of counters, and helper functions for columns of all kinds."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]


class Counter(Protocol):
    """Computes the profile of one column from a stream of values."""

    kind: Any
    rows: int
    missing: int

    def update(self, name: str, array: pa.Array) -> None:
        """Count further rows of a column.

        :param name: name of the column, for error messages
        :param array: the values
        :raises SchemaError: the kind of ``array`` differs from the kind of earlier rows
        """

    def add(self, column: Any) -> None:
        """Add the counts of a profile of the same kind, such as the profile of another shard."""

    def result(self) -> Any:
        """Return the profile of all rows that were counted."""


def plain(data_type: pa.DataType) -> pa.DataType:
    """Return the value type of a dictionary type. Return any other type unchanged."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def decoded(array: pa.Array) -> pa.Array:
    """Return ``array`` with dictionary encoding removed."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def as_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """Convert an Arrow array without null values to a NumPy array, without a copy.

    ``pyarrow.Array.to_numpy`` and ``pyarrow.array`` import pandas, which costs 40 MB of memory and 0.25 seconds.
    """
    return np.from_dlpack(array)


def as_arrow(values: npt.NDArray[np.int64]) -> pa.Array:
    """Convert a NumPy array to an Arrow array, without a copy and without importing pandas (see :func:`as_numpy`)."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def finite(value: float) -> float | None:
    """Return ``value``, or ``None`` for NaN and infinite values, which JSON does not support."""
    return value if math.isfinite(value) else None
