"""Shared by columns of all kinds."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]


class Counter(Protocol):
    """Makes the profile of one column from a stream of values."""

    kind: Any
    rows: int
    missing: int

    def update(self, name: str, array: pa.Array) -> None:
        """Count further rows of the column ``name``.

        :raises SchemaError: ``array`` is of another kind than earlier rows
        """

    def add(self, column: Any) -> None:
        """Count the rows of ``column``, a profile of the same kind."""

    def result(self) -> Any:
        """The profile of all rows counted so far."""


def plain(data_type: pa.DataType) -> pa.DataType:
    """The value type of a dictionary type; any other type unchanged."""
    return data_type.value_type if pa.types.is_dictionary(data_type) else data_type


def decoded(array: pa.Array) -> pa.Array:
    """``array`` with dictionary encoding removed."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def as_numpy(array: pa.Array) -> npt.NDArray[Any]:
    """The numbers of ``array``, which has no missing values, without a copy.

    ``pyarrow.Array.to_numpy`` and ``pyarrow.array`` import pandas, which costs 40 MB of memory and 0.25 seconds.
    """
    return np.from_dlpack(array)


def as_arrow(values: npt.NDArray[np.int64]) -> pa.Array:
    """``values`` as an Arrow array, without a copy and without importing pandas; see :func:`as_numpy`."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def finite(value: float) -> float | None:
    """``value``, or ``None`` if JSON cannot hold it (NaN and infinity)."""
    return value if math.isfinite(value) else None
