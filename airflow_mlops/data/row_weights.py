"""Row weights that halve with the age of a row. They are computed from the event times of a training set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from airflow_mlops.core.moments import EPOCH
from airflow_mlops.data.moments import as_utc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from airflow_mlops.data.datasets import Dataset

# Key in the details of a training set's manifest.
DETAIL = "weights"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class RowWeights:
    """The weights ``0.5 ** (age / half_life)`` of the rows of a training set.

    The age of a row is the elapsed time from its event to ``until``. A row that is newer than ``until`` has the weight 1.

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
    def of(cls, dataset: Dataset) -> RowWeights | None:
        """Return the weights of a training set, or ``None`` if its rows have no weights."""
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
    weights: NDArray[np.float64], parts: Mapping[str, Any], half_life: timedelta, until: datetime
) -> dict[str, Any]:
    """Return the description of row weights for the manifest of a training set.

    ``effective_rows`` is Kish's effective sample size ``sum(w)**2 / sum(w**2)``: the number of rows with equal weights
    that give a mean of the same precision (L. Kish, "Survey Sampling", 1965, section 11.7).

    :param weights: the weight of each row, shape (n,)
    :param parts: mask of the rows of each split part, shape (n,)
    """
    chosen = {part: weights[mask] for part, mask in parts.items()}
    return {
        "half_life_seconds": half_life.total_seconds(),
        "until": until.isoformat(),
        "mean": {part: float(found.mean()) for part, found in chosen.items()},
        "effective_rows": {part: effective_rows(found) for part, found in chosen.items()},
    }


def effective_rows(weights: NDArray[np.float64]) -> float:
    """Compute Kish's effective sample size; 0 if all weights are 0."""
    largest = float(weights.max(initial=0.0))
    if not largest:
        return 0.0
    scaled = weights / largest
    return float(scaled.sum() ** 2 / np.square(scaled).sum())
