"""The ends of prediction intervals.

Batch scoring, the server, metrics and monitoring all compute the ends here, so the ends are bit-identical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.core.contract import PredictionInterval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def ends(interval: PredictionInterval, value: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and the upper ends of the intervals of n predictions, each of shape (n,)."""
    return value - interval.margin, value + interval.margin


def covers(interval: PredictionInterval, truth: NDArray[Any], value: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether each of n labels lies in the interval of its prediction, both ends included, shape (n,)."""
    lower, upper = ends(interval, value)
    inside: NDArray[np.bool_] = (lower <= truth) & (truth <= upper)
    return inside
