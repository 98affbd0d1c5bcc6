"""Check the labels and predictions of a model, and convert them to :class:`Rows`, the input of all metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import PredictionInterval, Task
from airflow_mlops.core.errors import EvaluationError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from airflow_mlops.core.contract import ModelContract
    from airflow_mlops.metrics.predictions import Predictions


@dataclass(frozen=True)
class Rows:
    """The labels and the predictions of one model for n rows.

    :param task: the ML task (binary, multiclass, regression)
    :param truth: the labels, shape (n,). Binary: whether the label is the positive class; multiclass: the position of
        the label among the sorted classes (class code); regression: the value
    :param predicted: the predicted labels or values in the same form as ``truth``
    :param score: binary: probability of the positive class, shape (n,); multiclass: probability of each class code,
        shape (n, k); regression: predicted value, shape (n,). ``None`` for a classifier without probabilities
    :param weight: the weight of each row in metrics, at least 0, shape (n,); ``None`` if all rows have the same weight
    :param interval: the prediction intervals of the model; ``None`` for a model without them
    :param columns: the columns that metrics name, each of shape (n,): costs (finite and at least 0), forecasts
        (:mod:`airflow_mlops.metrics.forecasts`) and codes of groups
    """

    task: Task
    truth: NDArray[Any] = field(repr=False)
    predicted: NDArray[Any] = field(repr=False)
    score: NDArray[np.float64] | None = field(repr=False)
    weight: NDArray[np.float64] | None = field(default=None, repr=False)
    interval: PredictionInterval | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, index: NDArray[np.integer[Any]] | None) -> Rows:
        """Return the rows at the positions ``index``, or all rows if ``index`` is ``None``."""
        if index is None:
            return self
        score = None if self.score is None else self.score[index]
        weight = None if self.weight is None else self.weight[index]
        columns = {name: values[index] for name, values in self.columns.items()}
        return Rows(self.task, self.truth[index], self.predicted[index], score, weight, self.interval, columns)

    def cost(self, given: float | str) -> NDArray[np.float64] | float:
        """Return a cost: the number itself, or the values of the column with this name, shape (n,).

        :raises EvaluationError: the rows have no such column
        """
        if isinstance(given, str) and given not in self.columns:
            raise EvaluationError(
                f"The costs are in column {given!r}, which these rows do not have. Use another metric here, or costs that are numbers."
            )
        return self.columns[given] if isinstance(given, str) else given

    def weighted(self, weight: NDArray[np.float64] | None) -> Rows:
        """Return the rows with weights. A row with the weight 0 is not measured.

        :param weight: the weight of each row, finite and at least 0, shape (n,); ``None`` if all rows have the same
            weight
        :raises EvaluationError: the rows with a weight above 0 have fewer than two classes; for a regression, fewer
            than two rows have a weight above 0
        """
        if weight is None:
            return self
        measured = self.truth[weight > 0]
        few = len(measured) < 2 if self.task == "regression" else len(np.unique(measured)) < 2
        if few:
            raise EvaluationError(
                f"Only {len(measured):,} of {len(self):,} rows have a weight above 0, and "
                f"{'regression metrics need two' if self.task == 'regression' else 'these have fewer than two classes'}. Use a longer "
                "window, another split or other weights."
            )
        return replace(self, weight=weight)


def prepare(
    task: Task,
    y_true: ArrayLike,
    prediction: ArrayLike,
    score: ArrayLike | None,
    probabilities: ArrayLike | None,
    classes: Sequence[Any],
    *,
    positive: Any = None,
) -> Rows:
    """Check labels and predictions, and convert them to :class:`Rows`, the input of all metrics.

    :param task: the ML task (binary, multiclass, regression)
    :param y_true: the true labels or values, shape (n,)
    :param prediction: the predicted labels or values, shape (n,)
    :param score: binary: probability of the positive class, shape (n,); regression: predicted value, shape (n,).
        ``None`` for a binary classifier without probabilities
    :param probabilities: multiclass: a column for each class, in the order of ``classes``, shape (n, k). ``None`` for a
        classifier without probabilities
    :param classes: the class labels; empty for a regression
    :param positive: binary: the positive class label; by default the last of ``classes``
    :raises EvaluationError: there are no rows (for a regression, fewer than two), labels or predictions are null,
        values are not finite, a label or prediction of a binary ML task is not one of ``classes``, probabilities are outside the range
        from 0 to 1, or only one class occurs
    """
    truth = np.asarray(y_true)
    if truth.size == 0:
        raise EvaluationError("Metrics cannot be computed, because the data has no rows. Use a dataset with rows.")
    if missing := int(_missing(truth).sum()):
        raise EvaluationError(f"{missing:,} of {truth.size:,} labels are null. Remove these rows from the dataset.")
    if task == "regression":
        assert score is not None
        return _regression(_finite(truth, "labels"), _finite(score, "predictions"))
    probability = None if score is None or task != "binary" else _probability(score)
    predictions = np.asarray(prediction)
    # If the model returned NaN for a row, the prediction log has no predicted class for the row.
    if missing := int(_missing(predictions).sum()):
        raise EvaluationError(
            f"Metrics cannot be computed, because {missing:,} of {truth.size:,} predictions are null. Check the features of "
            "these rows and the model."
        )
    if task == "binary":
        return _binary(truth, predictions, probability, classes, positive)
    return _multiclass(truth, predictions, probabilities, classes)


def predicted(
    truth: ArrayLike,
    predictions: Predictions,
    contract: ModelContract,
    weight: NDArray[np.float64] | None = None,
    columns: Mapping[str, NDArray[Any]] | None = None,
) -> Rows:
    """Check the labels and predictions of a model with a contract, and convert them like :func:`prepare`.

    :param truth: the true labels or values, shape (n,)
    :param predictions: the predictions for the same rows
    :param contract: the model contract, which contains the ML task, the classes and the prediction intervals
    :param weight: the weight of each row, see :meth:`Rows.weighted`
    :param columns: the columns that the metrics name, such as costs, each of shape (n,)
    :raises EvaluationError: see :func:`prepare` and :meth:`Rows.weighted`
    """
    labels_only = contract.task != "regression" and predictions.probabilities is None
    rows = prepare(
        contract.task,
        truth,
        predictions.prediction,
        None if labels_only else predictions.score,
        predictions.probabilities,
        contract.classes,
        positive=contract.positive,
    )
    return replace(rows.weighted(weight), interval=contract.interval, columns=columns or {})


def _regression(truth: NDArray[np.float64], value: NDArray[np.float64]) -> Rows:
    if truth.size < 2:
        raise EvaluationError(
            "Regression metrics need at least two rows, but the data has one row. Use a dataset with more rows."
        )
    return Rows("regression", truth, value, value)


def _binary(
    truth: NDArray[Any],
    prediction: NDArray[Any],
    probability: NDArray[np.float64] | None,
    classes: Sequence[Any],
    positive: Any,
) -> Rows:
    if unknown := unseen(truth, classes):
        raise EvaluationError(
            f"The data has the label {unknown[0]!r}, but the model was trained on the labels {_listed(classes)}. "
            "Evaluate the model on data with these labels, or train the model again."
        )
    y = is_positive(truth, classes, positive)
    if y.all() or not y.any():
        raise EvaluationError(_one_class(truth))
    if unknown := unseen(prediction, classes):
        raise EvaluationError(
            f"The model predicted the label {unknown[0]!r}, which is not one of the model's labels {_listed(classes)}. "
            "Use a model that predicts only these labels."
        )
    return Rows("binary", y, is_positive(prediction, classes, positive), probability)


def _multiclass(
    truth: NDArray[Any], prediction: NDArray[Any], probabilities: ArrayLike | None, classes: Sequence[Any]
) -> Rows:
    # A class that did not occur in training has probability 0, so its rows count as errors.
    unknown = unseen(truth, classes)
    # A model that TrainOperator did not train may predict a class that is neither in its contract nor among the labels.
    unknown += unseen(prediction, [*classes, *unknown])
    labels = [*classes, *unknown]
    codes, predicted = encode(truth, labels), encode(prediction, labels)
    if np.unique(codes).size < 2:
        raise EvaluationError(_one_class(truth))
    if probabilities is None:
        return Rows("multiclass", codes, predicted, None)
    shares = np.pad(np.atleast_2d(_probability(probabilities)), ((0, 0), (0, len(unknown))))
    return Rows("multiclass", codes, predicted, shares / shares.sum(axis=1, keepdims=True))


def encode(labels: ArrayLike, classes: Sequence[Any]) -> NDArray[np.int64]:
    """Return the position of each label in ``classes``, or -1 for an unknown label."""
    values = np.asarray(labels)
    position = {label: index for index, label in enumerate(classes)}
    if values.dtype.kind == "O":
        # Labels of several types cannot be sorted.
        return np.array([position.get(label, -1) for label in values.tolist()], dtype=np.int64)
    distinct, inverse = np.unique(values, return_inverse=True)
    codes = np.array([position.get(label, -1) for label in distinct.tolist()], dtype=np.int64)
    return codes[inverse] if distinct.size else np.empty(0, dtype=np.int64)


def is_positive(labels: ArrayLike, classes: Sequence[Any], positive: Any = None) -> NDArray[np.bool_]:
    """Return whether each label of a binary ML task is the positive class, as booleans of shape (n,).

    :param positive: the positive class label; by default the last of ``classes``
    """
    label = classes[-1] if positive is None else positive
    matches: NDArray[np.bool_] = encode(labels, [label]) == 0
    return matches


def unseen(truth: NDArray[Any], classes: Sequence[Any]) -> list[Any]:
    """Return the distinct labels that are not in ``classes``."""
    known = set(classes)
    distinct = sorted(set(truth.tolist()), key=str) if truth.dtype.kind == "O" else np.unique(truth).tolist()
    return [label for label in distinct if label not in known]


def _missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype.kind == "O":
        # NaN of any type is the only value that is not equal to itself.
        return np.array([value is None or value != value for value in values.tolist()], dtype=bool)
    missing: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    return missing


def _finite(values: ArrayLike, what: str) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    if bad := int((~np.isfinite(numbers)).sum()):
        raise EvaluationError(
            f"Metrics cannot be computed, because {bad:,} of {numbers.size:,} {what} are NaN or infinite. Check the "
            "features of these rows and the model."
        )
    return numbers


def _probability(values: ArrayLike) -> NDArray[np.float64]:
    numbers = _finite(values, "predicted probabilities")
    # ONNX computes in float32, so a probability may be outside [0, 1] by a rounding error.
    if numbers.size and (numbers.min() < -1e-5 or numbers.max() > 1 + 1e-5):
        raise EvaluationError(
            f"The scores range from {numbers.min():.4g} to {numbers.max():.4g}, but probabilities range from 0 to 1. "
            "Use a model that predicts probabilities."
        )
    inside = not numbers.size or (numbers.min() >= 0 and numbers.max() <= 1)
    return numbers if inside else np.clip(numbers, 0.0, 1.0)


def _one_class(truth: NDArray[Any]) -> str:
    return (
        f"All {truth.size:,} labels are {truth.tolist()[0]!r}, but classification metrics need two classes. "
        "Use a longer window or another split."
    )


def _listed(classes: Sequence[Any]) -> str:
    return " and ".join(repr(label) for label in classes)
