"""Aggregates of a column over all rows, computed in batches.

Great Expectations computes an aggregate from a DataFrame with all values of a column, and pandas copies them several
times. Here, pandas reads the values in batches. Great Expectations then gets a DataFrame with a few values that have the
same aggregate, and compares it with the bounds of the expectation.

The minimum, the maximum and the sum of integers are exact. A sum of doubles, a mean and a standard deviation may differ
from those of one DataFrame in the last digits of double precision, because the values are added in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.data.frames import ColumnFacts
from airflow_mlops.data.moments import is_text, is_time
from airflow_mlops.stages.validate.selected import Selected
from airflow_mlops.stages.validate.times import frame_of

if TYPE_CHECKING:
    import pandas as pd

_EXTREMES = {"expect_column_min_to_be_between": "min", "expect_column_max_to_be_between": "max"}
_SUM = "expect_column_sum_to_be_between"
# With fewer values than this, the result is NA.
_WITH_NA = {"expect_column_value_z_scores_to_be_less_than": 2, "expect_column_quantile_values_to_be_between": 1}
_MOMENTS = ("expect_column_mean_to_be_between", "expect_column_stdev_to_be_between", _SUM)


def can_aggregate(expectation: Any, schema: pa.Schema) -> bool:
    """Return whether the rows are read in batches to compute what an expectation compares with its bounds.

    :param schema: the columns of the rows
    """
    kind = expectation.expectation_type
    if kind not in (*_EXTREMES, *_MOMENTS) or expectation.column not in schema.names:
        return False
    values = schema.field(expectation.column).type
    return _is_number(values) or (kind in _EXTREMES and (is_text(values) or is_time(values)))


def with_same_aggregate(expectation: Any, rows: Selected, facts: Mapping[str, ColumnFacts]) -> pd.DataFrame:
    """Return a few values that have the same aggregate as all values of the column.

    :param expectation: an expectation that :func:`can_aggregate` accepts
    :param rows: the rows that the expectation considers
    :param facts: the facts of all rows
    :return: a DataFrame with the column of the expectation
    """
    import pandas as pd

    kind: str = expectation.expectation_type
    column: str = expectation.column
    empty = _frame(rows.schema.empty_table().column(column), column, facts)[column]
    batches = (_frame(values, column, facts)[column] for values in rows.column(column))
    if kind in _EXTREMES:
        return _extreme(empty, batches, _EXTREMES[kind]).to_frame()
    moments = _Moments()
    for values in batches:
        moments.add(values.dropna())
    if not moments.count:
        return empty.to_frame()
    return pd.Series(moments.values_for(kind), dtype=object if empty.dtype == object else None).to_frame(column)


def with_suitable_integers(expectation: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """Convert a column of integers if Great Expectations would otherwise compute an expectation wrongly or not at all.

    Great Expectations stores bounds as doubles. NumPy rounds an integer beyond 2**53 when it compares the integer with a
    double, and the sum of 64-bit integers can overflow in pandas. For a minimum, a maximum or a sum that may be beyond
    2**53, the column therefore gets Python integers.

    The standard deviation of fewer than two values of the type ``Int64``, and a quantile of no values, is ``NA``, which
    Great Expectations cannot compare. For z-scores and quantiles, the column then gets doubles.

    :param expectation: an expectation about the rows, of any type
    :param frame: the rows
    :return: a shallow copy of the rows with the converted column, or ``frame`` itself
    """
    kind = expectation.expectation_type
    if kind not in (_SUM, *_EXTREMES, *_WITH_NA):
        return frame
    # Great Expectations ignores the letter case of column names.
    for name in (name for name in frame.columns if name.casefold() == str(expectation.column).casefold()):
        values = frame[name].dropna()
        if values.dtype.kind not in "iu":
            continue
        wanted: type | None = None
        if kind in _WITH_NA:
            wanted = float if len(values) < _WITH_NA[kind] else None
        elif len(values):
            largest = max(abs(int(values.min())), abs(int(values.max())))
            wanted = object if largest * (len(values) if kind == _SUM else 1) > 2**53 else None
        if wanted is not None:
            changed = frame.copy(deep=False)
            changed[name] = frame[name].astype(wanted)
            return changed
    return frame


def _extreme(empty: pd.Series, batches: Iterable[pd.Series], function: str) -> pd.Series:
    """Return the smallest or largest value, and a null if pandas cannot compare the values with their nulls."""
    import pandas as pd

    found, nulls = empty, empty
    for batch in batches:
        values = batch.dropna()
        if batch.dtype == object and not len(nulls):
            nulls = batch[batch.isna()].iloc[:1]
        if len(found):
            values = pd.concat([found, values])
        if len(values):
            found = values[values == getattr(values, function)()].iloc[:1]
    return pd.concat([found, nulls]) if len(nulls) else found


def _is_number(kind: pa.DataType) -> bool:
    checks = (pa.types.is_integer, pa.types.is_float64, pa.types.is_boolean, pa.types.is_decimal)
    return any(check(kind) for check in checks)


def _frame(values: pa.Array | pa.ChunkedArray, name: str, facts: Mapping[str, ColumnFacts]) -> pd.DataFrame:
    return frame_of(pa.table({name: values}), facts)


class _Moments:
    """Number, sum and squared deviations of the values so far.

    Deviations are merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    def __init__(self) -> None:
        self.count = 0
        self._whole = 0
        self._doubles: list[float] = []
        self._mean = self._squares = 0.0

    def add(self, values: pd.Series) -> None:
        """Add the values of a batch, none of which is missing."""
        if not len(values):
            return
        numbers = values.to_numpy(np.float64)
        # Infinite values are allowed.
        with np.errstate(all="ignore"):
            if values.dtype.kind == "f":
                self._doubles.append(float(numbers.sum()))
            else:
                self._whole += _sum_of_integers(values)
            mean = float(numbers.mean())
            squares, difference = float(np.square(numbers - mean).sum()), mean - self._mean
        before, self.count = self.count, self.count + len(numbers)
        self._mean += difference * (len(numbers) / self.count)
        self._squares += squares + difference * difference * (before * len(numbers) / self.count)

    def values_for(self, kind: str) -> Sequence[Any]:
        """Return a few values with the same mean, sum or standard deviation.

        :param kind: type of the expectation
        """
        total = _sum_of_doubles(self._doubles) if self._doubles else self._whole
        if kind == "expect_column_mean_to_be_between":
            return [total / self.count]
        if kind == _SUM:
            # Pandas skips NaN.
            return [math.inf, -math.inf] if total != total else [total]
        if self.count == 1:
            return [total]
        deviation = math.sqrt(self._squares / (self.count - 1))
        # Pandas computes sqrt(2 * deviation**2 / 2), which is exactly the deviation.
        return [-deviation, 0.0, deviation]


def _sum_of_integers(values: pd.Series) -> int:
    """Return the exact sum. The sum of pandas may overflow."""
    kind = values.dtype.kind
    if kind not in "iu":
        # The values are booleans or Python integers.
        return int(sum(values.tolist()))
    numbers = values.to_numpy(np.uint64 if kind == "u" else np.int64)
    return (int((numbers >> 32).sum()) << 32) + int((numbers & 0xFFFFFFFF).sum())


def _sum_of_doubles(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers)
    except (OverflowError, ValueError):
        # The sum is infinite or NaN.
        return sum(numbers)
