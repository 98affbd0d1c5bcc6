"""Reads the column of a training set that holds the weight of each row (``sample_weight=`` of TrainOperator)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import WeightError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

_ROLES = {"features": "a feature", "label": "the label", "keys": "a key", "timestamp": "the event time"}


def check_column(dataset: Dataset, column: str) -> None:
    """Check that a column of a training set can contain the weights of its rows.

    :param dataset: the training set
    :param column: name of the column
    :raises WeightError: the dataset has no such column, or the column is a feature, the label, a key or the event time
    """
    name, details = dataset.manifest.name, dataset.manifest.details
    if column not in dataset.manifest.column_names:
        raise WeightError(
            f"Dataset {name!r} has no column {column!r} with row weights. Name the column in `watched` of "
            "BuildTrainingSetOperator, or correct `sample_weight`."
        )
    for key, role in _ROLES.items():
        found = details.get(key) or []
        if column in ([found] if isinstance(found, str) else found):
            raise WeightError(
                f"Column {column!r} of dataset {name!r} is {role}, so it cannot contain row weights. Set `sample_weight` to "
                "another column, named in `watched` of BuildTrainingSetOperator."
            )


def sample_weights(dataset: Dataset, part: str | None, column: str) -> NDArray[np.float64]:
    """Read the weight of each row, shape (n,).

    :param dataset: the training set
    :param part: name of the split part; ``None`` for all rows
    :param column: name of the column
    :raises WeightError: see :func:`check_column` and :func:`as_weights`
    """
    check_column(dataset, column)
    where = f"split part {part!r} of dataset" if part else "dataset"
    return as_weights(dataset.table(part, [column]).column(column), column, f"{where} {dataset.manifest.name!r}")


def as_weights(values: pa.Array | pa.ChunkedArray, column: str, where: str) -> NDArray[np.float64]:
    """Convert the values of a column to weights, shape (n,).

    Weights are finite numbers of at least 0, and at least one weight is above 0. Libraries compute with weights in
    single precision. Therefore a weight is also refused if single precision changes it to infinity, or from a positive
    number to 0.

    :param values: the values
    :param column: name of the column, for errors
    :param where: description of the rows, for errors
    :raises WeightError: the values are not numbers, or some are not weights
    """
    kind = values.type
    if not is_number(kind):
        raise WeightError(
            f"Column {column!r} of {where} has the type {kind}, but row weights are numbers. Convert the column where "
            "the data is ingested, or set `sample_weight` to another column."
        )
    found = numbers(values)
    if problems := _listed(_problems(found, values.null_count)):
        raise WeightError(
            f"Column {column!r} of {where} cannot contain row weights, because it is {problems} (of {len(found):,}). "
            "Weights are finite numbers of at least 0. Correct them where the data is ingested, or leave these rows out of "
            "the training set."
        )
    if len(found) and not found.any():
        raise WeightError(
            f"Column {column!r} of {where} is 0 in all {counted(len(found), 'row')}, but at least one row weight must be above 0. Correct "
            "the weights where the data is ingested, or set `sample_weight` to another column."
        )
    return found


def why_no_weights(values: pa.Array | pa.ChunkedArray) -> str | None:
    """Return why values cannot be weights, as a phrase such as ``null in 3 rows (of 10)``.

    :func:`as_weights` describes which values can be weights.

    :param values: the values of a column
    :return: ``None`` if the values can be weights, or if there are no values
    """
    found = CheckedWeights()
    found.add(values)
    return found.wrong


class CheckedWeights:
    """Checks in batches whether the values of a column can be weights.

    :ivar rows: number of values
    :ivar missing: number of values that are null or NaN
    """

    def __init__(self) -> None:
        self.rows = self.missing = 0
        self._problems: Counter[str] = Counter()
        self._any = False
        self._type: pa.DataType | None = None

    def add(self, values: pa.Array | pa.ChunkedArray) -> None:
        """Check a batch of values."""
        self.rows += len(values)
        if not is_number(values.type):
            self._type = values.type
            self.missing += values.null_count
            return
        found = numbers(values)
        self.missing += int(np.isnan(found).sum())
        self._problems.update(_problems(found, values.null_count))
        self._any |= bool(found.any())

    @property
    def wrong(self) -> str | None:
        """Return why the values cannot be weights, see :func:`why_no_weights`."""
        if self._type is not None:
            return f"of the type {self._type}"
        if listed := _listed(self._problems):
            return f"{listed} (of {self.rows:,})"
        return f"0 in all {counted(self.rows, 'row')}" if self.rows and not self._any else None


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type can be weights: integers, floating-point numbers and decimals."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _problems(found: NDArray[np.float64], nulls: int) -> dict[str, int]:
    """Return the number of values that cannot be weights, by reason.

    :param found: the values, in which nulls are NaN
    :param nulls: number of nulls
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = found.astype(np.float32)
    return {
        "null": nulls,
        "negative": int((found < 0).sum()),
        "NaN, infinite or beyond single precision (3.4e38)": int((~np.isfinite(single) & ~(found < 0)).sum()) - nulls,
        "above 0 but 0 in single precision (below 1.4e-45)": int(((found > 0) & (single == 0)).sum()),
    }


def _listed(problems: Mapping[str, int]) -> str:
    """Return a phrase such as ``null in 3 rows``; empty if there are no problems."""
    return " and ".join(f"{what} in {counted(rows, 'row')}" for what, rows in problems.items() if rows)


def numbers(values: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
    """Convert numbers of any type to float64, and nulls to NaN, shape (n,)."""
    found = pc.cast(values, pa.float64(), safe=False)
    return np.asarray(found.to_numpy(zero_copy_only=False) if isinstance(found, pa.Array) else found.to_numpy())
