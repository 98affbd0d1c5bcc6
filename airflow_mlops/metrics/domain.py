"""Find labels and predictions for which a deviance (:mod:`airflow_mlops.metrics.deviances`) is undefined.

Such values are reported and never clipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_mlops.core.numbers import rounded

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST = 1e-100
"""Numbers below this count as 0, so the quotient of a label and a prediction is never infinite."""

_GAMMA, _SHOWN = 2.0, 3


def wrong_labels(power: float, truth: NDArray[np.float64], weight: NDArray[np.float64] | None = None) -> str | None:
    """Return a clause that lists labels for which a deviance is undefined; ``None`` if it is defined for all labels.

    :param power: the power of the deviance
    :param truth: the labels, shape (n,)
    :param weight: the weight of each row, shape (n,). A row with the weight 0 is not measured
    """
    positive = power >= _GAMMA
    wrong = truth < LEAST if positive else truth < 0
    return _clause(wrong, truth, weight, "labels", "not above 0" if positive else "below 0")


def wrong_predictions(
    value: NDArray[np.float64], weight: NDArray[np.float64] | None = None, model: str | None = None
) -> str | None:
    """Return a clause that lists predictions for which deviances are undefined; ``None`` if there are none.

    :param value: the predicted values, shape (n,)
    :param weight: the weight of each row, shape (n,). A row with the weight 0 is not measured
    :param model: name of the model, for the clause
    """
    what = "predictions" if model is None else f"predictions of {model}"
    return _clause(value < LEAST, value, weight, what, "not above 0")


def _clause(
    wrong: NDArray[np.bool_],
    values: NDArray[np.float64],
    weight: NDArray[np.float64] | None,
    what: str,
    condition: str,
) -> str | None:
    if weight is not None:
        wrong = wrong & (weight > 0)
    rows = wrong.nonzero()[0]
    if not len(rows):
        return None
    listed = [f"{rounded(values[row])} in row {row + 1:,}" for row in rows[:_SHOWN].tolist()]
    more = ", ..." if len(rows) > _SHOWN else ""
    return f"{len(rows):,} of {len(values):,} {what} are {condition} ({', '.join(listed)}{more})"
