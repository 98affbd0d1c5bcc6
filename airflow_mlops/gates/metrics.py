"""Metrics of predictions against the truth, for binary, multiclass and regression tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.exceptions import EvaluationError
from airflow_mlops.specs.model import Task

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 10


def compute(
    task: Task,
    y_true: ArrayLike,
    prediction: ArrayLike,
    score: ArrayLike,
    probabilities: ArrayLike | None,
    classes: Sequence[Any],
    *,
    positive: Any = None,
) -> dict[str, float]:
    """Measure predictions. The names are those of :data:`airflow_mlops.specs.metrics.METRICS`.

    :param y_true: the true labels or values, shape (n,)
    :param prediction: the predicted labels or values, shape (n,)
    :param score: binary: the probability of the positive class; regression: the predicted value; shape (n,)
    :param probabilities: multiclass: one column a class, in the order of ``classes``, shape (n, k); without them
        ``log_loss`` and ``roc_auc_ovr`` are left out
    :param classes: the class labels; empty for regression
    :param positive: binary: the label whose probability ``score`` is; the last of ``classes`` unless given
    :raises EvaluationError: there are no rows, values are missing, not finite or unknown, or only one class occurs
    """
    truth = np.asarray(y_true)
    if truth.size == 0:
        raise EvaluationError("There is nothing to measure: the data holds no rows.")
    if missing := int(_missing(truth).sum()):
        raise EvaluationError(
            f"{missing:,} of {truth.size:,} labels are missing: leave rows without a label out before measuring."
        )
    if task == "regression":
        return _regression(_finite(truth, "labels"), _finite(score, "predictions"))
    if task == "binary":
        return _binary(truth, np.asarray(prediction), _probability(score), classes, positive)
    return _multiclass(truth, np.asarray(prediction), probabilities, classes)


def baseline(task: Task, y_true: ArrayLike, classes: Sequence[Any], *, positive: Any = None) -> dict[str, float]:
    """The metrics of a model that knows the labels' distribution and nothing else.

    It predicts the most frequent class with the classes' frequencies as probabilities, or the mean value.
    """
    truth = np.asarray(y_true)
    if task == "regression":
        values = _finite(truth, "labels")
        mean = np.full(truth.size, values.mean() if truth.size else 0.0)
        return compute(task, values, mean, mean, None, [])
    labels = [*classes, *_unseen(truth, classes)]
    codes = encode(truth, labels)
    shares = np.bincount(codes, minlength=len(labels)) / max(1, truth.size)
    probabilities = np.tile(shares, (truth.size, 1))
    majority = np.asarray(labels, dtype=object)[np.full(truth.size, int(shares.argmax()))]
    column = labels.index(classes[-1] if positive is None else positive)
    return compute(task, truth, majority, probabilities[:, column], probabilities, labels, positive=positive)


def encode(labels: ArrayLike, classes: Sequence[Any]) -> NDArray[np.int64]:
    """Each label's position in ``classes``; -1 for one that is not there."""
    found, inverse = np.unique(np.asarray(labels), return_inverse=True)
    position = {label: index for index, label in enumerate(classes)}
    codes = np.array([position.get(label, -1) for label in found.tolist()], dtype=np.int64)
    return codes[inverse] if found.size else np.empty(0, dtype=np.int64)


def is_positive(labels: ArrayLike, classes: Sequence[Any], positive: Any = None) -> NDArray[np.bool_]:
    """Which labels of a binary task are the positive class."""
    label = classes[-1] if positive is None else positive
    found: NDArray[np.bool_] = encode(labels, [label]) == 0
    return found


def reliability(
    truth: NDArray[np.bool_], probability: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean predicted probability, observed share of positives and rows, for each filled bin of equal width."""
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    rows = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = rows > 0
    predicted = np.bincount(bins, weights=probability, minlength=CALIBRATION_BINS)[filled] / rows[filled]
    observed = np.bincount(bins, weights=truth, minlength=CALIBRATION_BINS)[filled] / rows[filled]
    return predicted, observed, rows[filled]


def _binary(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    probability: NDArray[np.float64],
    classes: Sequence[Any],
    positive: Any,
) -> dict[str, float]:
    from sklearn import metrics

    if unseen := _unseen(truth, classes):
        raise EvaluationError(
            f"The data holds the label {unseen[0]!r}, the model knows {_listed(classes)}: "
            "a binary task has two labels, the same in training and here."
        )
    y = is_positive(truth, classes, positive)
    if y.all() or not y.any():
        raise EvaluationError(_one_class(truth))
    predicted = is_positive(prediction, classes, positive)
    means, shares, rows = reliability(y, probability)
    return _plain(
        roc_auc=metrics.roc_auc_score(y, probability),
        average_precision=metrics.average_precision_score(y, probability),
        log_loss=metrics.log_loss(y, probability, labels=[False, True]),
        brier=np.mean((probability - y) ** 2),
        ece=np.sum(rows * np.abs(means - shares)) / truth.size,
        accuracy=metrics.accuracy_score(y, predicted),
        f1=metrics.f1_score(y, predicted, zero_division=0),
        precision=metrics.precision_score(y, predicted, zero_division=0),
        recall=metrics.recall_score(y, predicted, zero_division=0),
    )


def _multiclass(
    truth: NDArray[Any], prediction: NDArray[Any], probabilities: ArrayLike | None, classes: Sequence[Any]
) -> dict[str, float]:
    from sklearn import metrics

    # A class that training never saw has probability nought, and rows of it count as mistakes.
    unseen = _unseen(truth, classes)
    labels = [*classes, *unseen]
    codes, predicted = encode(truth, labels), encode(prediction, labels)
    if np.unique(codes).size < 2:
        raise EvaluationError(_one_class(truth))
    found = {
        "accuracy": metrics.accuracy_score(codes, predicted),
        "f1_macro": metrics.f1_score(codes, predicted, average="macro", zero_division=0),
    }
    if probabilities is not None:
        shares = np.pad(np.atleast_2d(_probability(probabilities)), ((0, 0), (0, len(unseen))))
        shares = shares / shares.sum(axis=1, keepdims=True)
        found["log_loss"] = metrics.log_loss(codes, shares, labels=range(len(labels)))
        # Classes without a row in the truth have no curve of their own.
        found["roc_auc_ovr"] = np.mean(
            [metrics.roc_auc_score(codes == code, shares[:, code]) for code in np.unique(codes)]
        )
    return _plain(**found)


def _regression(truth: NDArray[np.float64], value: NDArray[np.float64]) -> dict[str, float]:
    from sklearn import metrics

    if truth.size < 2:
        raise EvaluationError("A regression cannot be measured on a single row.")
    return _plain(
        rmse=np.sqrt(metrics.mean_squared_error(truth, value)),
        mae=metrics.mean_absolute_error(truth, value),
        r2=metrics.r2_score(truth, value),
    )


def _plain(**values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "O":
        # NaN, of whatever type, is the one value that differs from itself.
        return np.array([value is None or value != value for value in values.tolist()], dtype=bool)
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    return missing


def _finite(values: ArrayLike, what: str) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if bad := int((~np.isfinite(numbers)).sum()):
        raise EvaluationError(
            f"{bad:,} of {numbers.size:,} {what} are NaN or infinite: nothing can be measured on them."
        )
    return numbers


def _probability(values: ArrayLike) -> NDArray[np.float64]:
    numbers = _finite(values, "predicted probabilities")
    # ONNX computes in float32, so a probability may miss the border by a rounding error.
    if numbers.size and (numbers.min() < -1e-5 or numbers.max() > 1 + 1e-5):
        raise EvaluationError(
            f"The scores lie between {numbers.min():.4g} and {numbers.max():.4g} and are no probabilities: "
            "use a model that predicts probabilities."
        )
    return np.clip(numbers, 0.0, 1.0)


def _unseen(truth: NDArray[Any], classes: Sequence[Any]) -> list[Any]:
    known = set(classes)
    return [label for label in np.unique(truth).tolist() if label not in known]


def _one_class(truth: NDArray[Any]) -> str:
    return (
        f"All {truth.size:,} labels are {truth.tolist()[0]!r}: with one class only there is nothing to tell apart. "
        "Take a longer window or another split."
    )


def _listed(classes: Sequence[Any]) -> str:
    return " and ".join(repr(label) for label in classes)
