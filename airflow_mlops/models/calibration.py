"""Calibrate the probabilities of a classifier on rows to which the model was not fitted.

The calibration functions are fitted by scikit-learn's ``CalibratedClassifierCV`` to the probabilities of the model's
ONNX export, so models of all libraries are calibrated in the same way. The scores to which the functions are fitted
depend on the method:

- ``isotonic``: the probability of a class, rounded to a multiple of :data:`STEP`. The function is increasing and
  piecewise linear.
- ``sigmoid``: the log-odds of a class. For estimators without ``decision_function``, scikit-learn uses the probability
  itself. A sigmoid of the probability cannot leave well calibrated probabilities unchanged (M. Kull, T. Silva Filho and
  P. Flach, "Beta calibration", 2017).
- ``temperature``: the log-odds (binary) or the logarithms of the probabilities (multiclass), divided by one temperature
  (C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017).

For a multiclass model, ``isotonic`` and ``sigmoid`` calibrate each class against the rest, and the results are divided
by their sum. In log-odds and logarithms, probabilities are clipped to the range from :data:`EDGE` to ``1 - EDGE``,
because smaller differences from 0 and 1 are rounding errors in single precision.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import CalibrationMap, CalibrationMethod
from airflow_mlops.core.errors import SpecError, TrainingError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE = 1e-6
"""Before log-odds and logarithms are computed, probabilities are clipped to the range from EDGE to 1 - EDGE."""

STEP = 1 / 1_024_000
"""Isotonic functions are fitted to scores that are rounded to multiples of this number.

In the ONNX export of a forest, equal shares of trees differ by rounding in single precision. A function that
distinguished them would be too steep. The shares of 100, 128, 500 or 1,024 trees are exact multiples.
"""

ROWS: dict[CalibrationMethod, int] = {"isotonic": 1_000, "sigmoid": 100, "temperature": 100}
"""The smallest number of rows to which each method is fitted. With fewer than about 1,000 rows, isotonic regression
overfits (Niculescu-Mizil and Caruana, Predicting good probabilities with supervised learning, 2005).
"""

CLASS_ROWS = 10
"""The smallest number of rows of each class."""


def require_rows(method: CalibrationMethod, labels: NDArray[Any], classes: Sequence[Any], source: str) -> None:
    """Check that the rows are enough to fit a calibration.

    :param method: the calibration method
    :param labels: labels of the rows, shape (n,)
    :param classes: the classes of the model
    :param source: description of how the rows were chosen, for the error message
    :raises TrainingError: there are fewer rows than :data:`ROWS`, or fewer rows of a class than :data:`CLASS_ROWS`
    """
    counts = {label: int((labels == label).sum()) for label in classes}
    rows, rarest = sum(counts.values()), min(counts, key=lambda label: counts[label])
    if rows < ROWS[method]:
        found = f"there are {rows:,} ({source})"
    elif counts[rarest] < CLASS_ROWS:
        found = f"class {rarest!r} has {counts[rarest]:,} ({source})"
    else:
        return
    other = ", use 'sigmoid' or 'temperature'" if method == "isotonic" and rows >= ROWS["sigmoid"] else ""
    raise TrainingError(
        f"calibration={method!r} needs {ROWS[method]:,} training rows that are set aside, {CLASS_ROWS} of each class, but {found}. "
        f"Use more rows{other}, or remove `calibration`."
    )


def fit(
    method: CalibrationMethod,
    probabilities: NDArray[np.float64],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None = None,
) -> list[CalibrationMap]:
    """Fit the functions of a calibration.

    :param method: the calibration method
    :param probabilities: probabilities of the classes, shape (n, k)
    :param codes: position of each row's class, shape (n,). Every class must occur
    :param weight: the weight of each row, above 0 and with the mean 1, shape (n,); ``None`` if each row counts once
    :return: one function for each class; a single function for two classes, and for ``temperature``
    :raises SpecError: scikit-learn is too old for the method
    """
    import sklearn
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    if method == "temperature" and tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8):
        raise SpecError(
            f"calibration='temperature' needs scikit-learn 1.8 or newer, but {sklearn.__version__} is installed where the step runs. "
            "Upgrade scikit-learn, or use 'sigmoid'."
        )
    scores = _scores(method, probabilities)
    if method == "temperature" and scores.shape[1] == 1:
        # scikit-learn converts a score x to the pair (-x, x). The difference of the two numbers must be the log-odds.
        scores = scores / 2
    if method == "isotonic":
        scores = np.round(scores / STEP) * STEP
    given = _given_scores(probabilities.shape[1])
    # One fold with all rows is enough, because the frozen estimator is not fitted to these rows.
    rows = np.arange(len(codes))
    calibration = CalibratedClassifierCV(FrozenEstimator(given), method=method, cv=[(rows, rows)])
    with warnings.catch_warnings():
        # scikit-learn warns that the frozen estimator is not fitted with the weights.
        warnings.filterwarnings("ignore", message=".*sample_weight", category=UserWarning)
        found = calibration.fit(scores, codes, sample_weight=weight)
    (calibrated,) = found.calibrated_classifiers_
    if method == "isotonic":
        return [
            CalibrationMap(scores=each.X_thresholds_.tolist(), probabilities=each.y_thresholds_.tolist())
            for each in calibrated.calibrators
        ]
    if method == "sigmoid":
        return [CalibrationMap(slope=-float(each.a_), intercept=-float(each.b_)) for each in calibrated.calibrators]
    return [CalibrationMap(slope=float(each.beta_)) for each in calibrated.calibrators]


def calibrate(
    method: CalibrationMethod, maps: Sequence[CalibrationMap], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the calibrated probabilities, shape (n, k).

    :param method: the calibration method
    :param maps: the functions from :func:`fit`
    :param probabilities: probabilities of the classes, shape (n, k)
    """
    scores, classes = _scores(method, probabilities), probabilities.shape[1]
    if method == "isotonic":
        # For scores beyond the fitted range, np.interp returns the probability at the end of the range.
        found = np.stack(
            [np.interp(scores[:, place], each.scores, each.probabilities) for place, each in enumerate(maps)], axis=1
        )
    else:
        scores = scores * np.array([each.slope for each in maps]) + np.array([each.intercept for each in maps])
        if method == "temperature" and classes > 2:
            raised = np.exp(scores - scores.max(axis=1, keepdims=True))
            return np.asarray(raised / raised.sum(axis=1, keepdims=True))
        found = 1 / (1 + np.exp(-scores))
    if classes == 2:
        return np.concatenate([1 - found, found], axis=1)
    total = found.sum(axis=1, keepdims=True)
    # As in scikit-learn, the classes get equal probabilities if no class has a probability above 0.
    return np.where(total > 0, found / np.where(total > 0, total, 1), 1 / classes)


def _scores(method: CalibrationMethod, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores that are calibrated, shape (n, 1) for two classes, otherwise shape (n, k)."""
    binary = probabilities.shape[1] == 2
    given = probabilities[:, 1:] if binary else probabilities
    if method == "isotonic":
        return given
    inner = np.clip(given, EDGE, 1 - EDGE)
    if method == "temperature" and not binary:
        return np.log(inner)
    return np.asarray(np.log(inner) - np.log(1 - inner))


def _given_scores(classes: int) -> Any:
    """Return a classifier whose decision function returns the input unchanged."""
    from sklearn.base import BaseEstimator, ClassifierMixin

    class GivenScores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        def __init__(self) -> None:
            self.classes_ = np.arange(classes)

        def fit(self, X: Any, y: Any) -> Any:  # noqa: N803 - scikit-learn's name
            return self

        def predict(self, X: Any) -> Any:  # noqa: N803
            scores = self.decision_function(X)
            return (scores > 0).astype(int) if classes == 2 else scores.argmax(axis=1)

        def decision_function(self, X: Any) -> Any:  # noqa: N803
            return X[:, 0] if classes == 2 else X

    return GivenScores()
