"""The weights of the rows in a training: weights by age, weights from a column, or the product of both.

Weights by age (``Decay``) halve with each half-life. They belong to the training set and are computed from its event
times. The column of weights (``sample_weight=``) is a parameter of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.errors import WeightError
from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data.moments import as_utc
from airflow_mlops.data.sample_weights import as_weights, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

# Key in the details of a training set's manifest.
DETAIL = "weights"
_MICROSECOND = timedelta(microseconds=1)
# Number of weights that are in memory at once.
_SUMMED_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class RowWeights:
    """The weights of the rows of a training set: the product of the weights by age and the weights in a column.

    :param decay: the weights by age; ``None`` if the training set has none
    :param sample: name of the column of weights; ``None`` if the training has no such column
    """

    decay: Decay | None = None
    sample: str | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> RowWeights | None:
        """Return the weights of a training set, or ``None`` if its rows have no weights."""
        found = cls(Decay.of(dataset), dataset.sample_weight)
        return found if found.columns else None

    @property
    def columns(self) -> list[str]:
        """Return the names of the columns from which the weights are computed."""
        return [*([self.decay.column] if self.decay else []), *([self.sample] if self.sample else [])]

    def mean(self, dataset: Dataset, part: str | None) -> float:
        """Return the mean weight of the rows of a split part, or of all rows if ``part`` is ``None``."""
        if self.sample is None and self.decay is not None:
            return self.decay.mean(dataset, part)
        return float(self.read(dataset, part).mean())

    def read(self, dataset: Dataset, part: str | None) -> NDArray[np.float64]:
        """Compute the weight of each row of a split part, or of all rows if ``part`` is ``None``, shape (n,).

        :raises WeightError: the column cannot hold weights, or the weights of all rows are 0
        """
        return self.weights(dataset.table(part, self.columns), dataset, part)

    def weights(self, rows: pa.Table, dataset: Dataset, part: str | None) -> NDArray[np.float64]:
        """Compute the weight of each row, shape (n,).

        :param rows: all rows of ``part``, with the columns :attr:`columns`
        :param dataset: the training set, which errors name
        :raises WeightError: the column cannot hold weights, or the weights of all rows are 0
        """
        if self.sample is None:
            return self.some(rows)
        where = f"{f'split part {part!r} of ' if part else ''}dataset {dataset.manifest.name!r}"
        found = as_weights(rows.column(self.sample), self.sample, where)
        if self.decay is None:
            return found
        found = found * self.decay.weights(rows.column(self.decay.column))
        if len(found) and not found.any():
            raise WeightError(
                f"All rows of {where} have the weight 0, because column {self.sample!r} multiplied by the weight by age "
                "(Decay) is 0. Use a longer half-life, or other weights."
            )
        return found

    def some(self, rows: pa.Table | pa.RecordBatch) -> NDArray[np.float64]:
        """Compute the weight of each row, shape (n,), without checking the values.

        :param rows: some rows of a training set whose weights were checked, with the columns :attr:`columns`
        """
        found = np.ones(rows.num_rows)
        if self.decay is not None:
            found = self.decay.weights(rows.column(self.decay.column))
        if self.sample is not None:
            found = found * numbers(rows.column(self.sample))
        return found


@dataclass(frozen=True)
class Decay:
    """The weights ``0.5 ** (age / half_life)`` of the rows of a training set.

    The age of a row is the elapsed time from its event to ``until``. A row that is newer than ``until`` has the weight
    1.

    :param column: name of the event time column
    :param half_life: age at which a row has the weight 0.5
    :param until: time from which the age is counted
    :param means: mean weight of the rows, by split part
    """

    column: str
    half_life: timedelta
    until: datetime
    means: Mapping[str, float]

    @classmethod
    def of(cls, dataset: Dataset) -> Decay | None:
        """Return the weights by age of a training set, or ``None`` if it has none."""
        details = dataset.manifest.details
        found = details.get(DETAIL)
        if not found:
            return None
        return cls(
            column=str(details["timestamp"]),
            half_life=timedelta(seconds=float(found["half_life_seconds"])),
            until=datetime.fromisoformat(found["until"]),
            means=found["mean"],
        )

    def mean(self, dataset: Dataset, part: str | None) -> float:
        """Return the mean weight of the rows of a split part, or of all rows if ``part`` is ``None``."""
        if part is not None:
            return self.means[part]
        rows = dataset.ref.parts
        return sum(self.means[name] * count for name, count in rows.items()) / sum(rows.values())

    def weights(self, times: pa.Array | pa.ChunkedArray) -> NDArray[np.float64]:
        """Compute the weight of each row, shape (n,).

        :param times: event times
        """
        micros = as_utc(times, f"The event time {self.column!r}").cast(pa.int64()).to_numpy(zero_copy_only=False)
        return decayed(micros, self.half_life, self.until)


def decayed(micros: NDArray[np.int64], half_life: timedelta, until: datetime) -> NDArray[np.float64]:
    """Compute the weights ``0.5 ** (age / half_life)``, where the age is at least 0, shape (n,).

    :param micros: event times in microseconds since 1970 UTC, shape (n,)
    :param half_life: age at which a row has the weight 0.5
    :param until: time from which the age is counted
    """
    age = np.maximum(0, (until - EPOCH) // _MICROSECOND - micros)
    return np.asarray(0.5 ** (age / (half_life / _MICROSECOND)))


def describe(
    weights: Callable[[str], Iterator[NDArray[np.float64]]],
    rows: Mapping[str, int],
    half_life: timedelta,
    until: datetime,
) -> dict[str, Any]:
    """Return the description of row weights for the manifest of a training set.

    ``effective_rows`` is Kish's effective sample size ``sum(w)**2 / sum(w**2)``: the number of rows with equal weights
    that give a mean of the same precision (L. Kish, "Survey Sampling", 1965, section 11.7).

    :param weights: function that reads the weights of the rows of a split part, in arrays of any lengths
    :param rows: number of rows of each split part
    :param half_life: age at which a row has the weight 0.5
    :param until: time from which the age is counted
    """
    return {
        "half_life_seconds": half_life.total_seconds(),
        "until": until.isoformat(),
        "mean": {part: _sum(weights(part), count) / count for part, count in rows.items()},
        "effective_rows": {part: effective_rows(partial(weights, part), count) for part, count in rows.items()},
    }


def effective_rows(weights: Callable[[], Iterator[NDArray[np.float64]]], rows: int) -> float:
    """Compute Kish's effective sample size; 0 if all weights are 0.

    :param weights: function that reads the weights, in arrays of any lengths
    :param rows: number of weights
    """
    largest = max((float(values.max(initial=0.0)) for values in weights()), default=0.0)
    if not largest:
        return 0.0
    total = _sum((values / largest for values in weights()), rows)
    return float(total**2 / _sum((np.square(values / largest) for values in weights()), rows))


def _sum(values: Iterator[NDArray[np.float64]], count: int) -> float:
    """Return the sum that ``numpy.sum`` returns for the joined arrays, to the last bit.

    It adds the sums of two halves, as NumPy does ("pairwise summation"). The length of the first half is a multiple of
    8.

    :param values: arrays of any lengths
    :param count: number of all values
    """
    rest = np.empty(0)

    def read(size: int) -> float:
        nonlocal rest
        if size > _SUMMED_AT_ONCE:
            half = size // 2 - size // 2 % 8
            return read(half) + read(size - half)
        held = [rest]
        missing = size - len(rest)
        while missing > 0:
            held.append(next(values))
            missing -= len(held[-1])
        joined = np.concatenate(held)
        rest = joined[size:]
        return float(joined[:size].sum())

    return read(count)
