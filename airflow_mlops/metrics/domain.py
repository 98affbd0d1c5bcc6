"""Find labels and predictions for which a deviance (:mod:`airflow_mlops.metrics.deviances`) is undefined.

Such values are reported and never clipped.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    found = _Wrong()
    found.add(_undefined(power, truth), truth, weight)
    return found.clause("labels", _condition(power))


def wrong_predictions(
    value: NDArray[np.float64], weight: NDArray[np.float64] | None = None, model: str | None = None
) -> str | None:
    """Return a clause that lists predictions for which deviances are undefined; ``None`` if there are none.

    :param value: the predicted values, shape (n,)
    :param weight: the weight of each row, shape (n,). A row with the weight 0 is not measured
    :param model: name of the model, for the clause
    """
    what = "predictions" if model is None else f"predictions of {model}"
    found = _Wrong()
    found.add(value < LEAST, value, weight)
    return found.clause(what, _condition(_GAMMA))


def wrong_rows(power: float, parts: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str | None:
    """Return a clause that lists labels, or else predictions, for which a deviance is undefined; ``None`` if there are none.

    :param power: the power of the deviance
    :param parts: the labels and the predicted values of each part of the rows, each of shape (n,)
    """
    labels, predictions = _Wrong(), _Wrong()
    for truth, value in parts:
        labels.add(_undefined(power, truth), truth)
        predictions.add(value < LEAST, value)
    return labels.clause("labels", _condition(power)) or predictions.clause("predictions", _condition(_GAMMA))


def _undefined(power: float, truth: NDArray[np.float64]) -> NDArray[np.bool_]:
    return truth < (LEAST if power >= _GAMMA else 0)


def _condition(power: float) -> str:
    return "not above 0" if power >= _GAMMA else "below 0"


class _Wrong:
    """Counts and lists the rows for which a deviance is undefined, in parts."""

    def __init__(self) -> None:
        self._rows = self._count = 0
        self._listed: list[str] = []

    def add(
        self, wrong: NDArray[np.bool_], values: NDArray[np.float64], weight: NDArray[np.float64] | None = None
    ) -> None:
        if weight is not None:
            wrong = wrong & (weight > 0)
        rows = wrong.nonzero()[0]
        for row in rows[: _SHOWN - len(self._listed)].tolist():
            self._listed.append(f"{rounded(values[row])} in row {self._rows + row + 1:,}")
        self._count += len(rows)
        self._rows += len(values)

    def clause(self, what: str, condition: str) -> str | None:
        """Return a clause about the rows; ``None`` if there are none."""
        if not self._count:
            return None
        more = ", ..." if self._count > _SHOWN else ""
        return f"{self._count:,} of {self._rows:,} {what} are {condition} ({', '.join(self._listed)}{more})"
