"""Convert columns to the inputs of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from airflow_mlops.core.errors import SchemaError
from airflow_mlops.models import inputs

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_NUMPY = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}


class Input(NamedTuple):
    """An input of the model, and its type, such as ``tensor(float)``."""

    name: str
    type: str


class Matrix(NamedTuple):
    """An input of the model that takes several numeric features, as a matrix with one column for each feature.

    :param name: name of the input
    :param columns: names of the features, in order
    :param type: type of the input, such as ``tensor(float)``
    """

    name: str
    columns: Sequence[str]
    type: str

    def feed(self, data: pa.RecordBatch | pa.Table) -> Callable[[int, int], NDArray[Any]]:
        """Return a function ``(start, end)`` that returns these rows of the matrix."""
        found = [inputs.numbers(inputs.column(data, name), name) for name in self.columns]

        def rows(start: int, end: int) -> NDArray[Any]:
            matrix = np.empty((end - start, len(found)), _NUMPY[self.type])
            for place, values in enumerate(found):
                matrix[:, place] = values[start:end]
            return matrix

        return rows

    def of_values(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> NDArray[Any]:
        """Return the matrix of Python values, shape (n, features); see :func:`singles`."""
        return np.ascontiguousarray(singles(columns, self.columns).T, _NUMPY[self.type])


def feed(data: pa.RecordBatch | pa.Table, node: Input) -> Callable[[int, int], NDArray[Any]]:
    """Return a function ``(start, end)`` that returns these rows of one input, shape (end - start, 1)."""
    values = inputs.column(data, node.name)
    if node.type == "tensor(string)":
        encoded = inputs.texts(values, node.name)
        # Each distinct text becomes a Python object only once.
        known = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
        codes = encoded.indices.to_numpy()
        return lambda start, end: known[codes[start:end]].reshape(-1, 1)
    return _feed_numbers(inputs.numbers(values, node.name), node)


def slices(array: NDArray[Any]) -> Callable[[int, int], NDArray[Any]]:
    """Return a function ``(start, end)`` that returns these rows of an array."""
    return lambda start, end: array[start:end]


def texts(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Return the values of one text input, shape (n, 1). ``None`` becomes the empty text."""
    return np.array(["" if value is None else value for value in values], dtype=object).reshape(-1, 1)


def singles(columns: Mapping[str, Sequence[Any] | NDArray[Any]], names: Sequence[str]) -> NDArray[np.float32]:
    """Return Python values of numeric inputs in single precision, shape (inputs, n). ``None`` becomes NaN.

    Like :func:`airflow_mlops.models.inputs.numbers`, it rounds integers to double precision first.

    :param columns: values of each feature, by name, as Python values or as an array of doubles
    :param names: names of the inputs, at least one
    """
    # One array for all inputs, because creating a small array takes more time than filling it. Combining arrays
    # takes a tenth of the time of combining lists. ``None`` becomes NaN.
    return np.array([columns[name] for name in names], np.float64).astype(np.float32)


def _feed_numbers(numbers: NDArray[np.float32], node: Input) -> Callable[[int, int], NDArray[Any]]:
    converted = as_input(numbers, node)
    return lambda start, end: converted[start:end].reshape(-1, 1)


def as_input(numbers: NDArray[np.float32], node: Input) -> NDArray[Any]:
    """Convert numbers to the type of an input.

    :raises SchemaError: the input takes integers, and a number is NaN, that is, null in the data
    """
    if node.type == "tensor(int64)" and np.isnan(numbers).any():
        raise SchemaError(
            f"Feature {node.name!r} is an integer input of the model, which allows no nulls, but it is null in some rows. "
            "Fill the nulls."
        )
    return numbers.astype(_NUMPY[node.type], copy=False)
