"""Export a model to ONNX, compare the export with the model, and choose the precision of the export."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ModelContract, Parity, Precision
from airflow_mlops.core.errors import ModelFormatError
from airflow_mlops.metrics.predictions import Predictions
from airflow_mlops.models.onnx.rowwise import rowwise
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

ROWS, SEED = 20_000, 0
# The largest difference that counts as a rounding error. For a classification, it is a difference of probabilities. For
# a regression, it is relative to the absolute predicted value, and the limit is at most TOLERANCE * DEVIATIONS standard
# deviations of the labels.
TOLERANCE, DEVIATIONS = 1e-3, 4
# For a regression, ROUNDING standard deviations of the labels are added to the limit. Otherwise the limit would be too
# small for predictions near 0, which can be differences of large numbers. In tests, the differences of float32 exports
# were at most a tenth of ROUNDING standard deviations, even with features 2,000 standard deviations from 0.
ROUNDING = 1e-4
# Rounding can cause a large difference if a feature lies at the threshold of a tree, or if a row is equally far from
# two nearest neighbours. Such differences are accepted in at most this share of the rows.
LEAPS = 1e-3
# A row counts as a tie if its margin (see _margin) is smaller than this.
_TIE = 1e-9
# Number of rows that are predicted at once. The memory of some models grows with this number times the number of
# training rows.
_BATCH = 4096


@dataclass(frozen=True)
class Export:
    """The ONNX export of a model, and the deviation of its predictions from the model.

    :param content: the serialised ONNX model
    :param predictions: predictions of the export for the split part ``test``
    :param parity: the differences between the predictions of the export and of the model
    :param beyond: number of compared rows whose difference is too large for a rounding error
    """

    content: bytes
    predictions: Predictions
    parity: Parity
    beyond: int

    @property
    def is_faithful(self) -> bool:
        return math.isfinite(self.parity.max_difference) and self.beyond <= LEAPS * self.parity.rows

    @property
    def is_enough(self) -> bool:
        """Return whether this export is accurate enough. If not, a float64 export is tried, which is half as fast."""
        return self.is_faithful and (self.parity.label_flips or 0) <= LEAPS * self.parity.rows

    def is_nearer(self, other: Export) -> bool:
        return self._distance < other._distance

    @property
    def _distance(self) -> tuple[int, int, float]:
        return self.beyond, self.parity.label_flips or 0, self.parity.max_difference


def export(
    model: FittedModel,
    contract: ModelContract,
    train: TrainingData,
    test: TrainingData,
    progress: Callable[[str], None],
) -> Export:
    """Export ``model`` in float32, or in float64 if float32 is not accurate enough and float64 is closer to the model.

    :param model: the fitted model
    :param contract: the model contract, which defines the features and the classes
    :param train: split part `train`, to which the model was fitted
    :param test: split part `test`, on which the export is compared with the model
    :param progress: function that writes a message to the task's log
    :raises ModelFormatError: the model cannot be exported, or the export predicts differently from the model in float32
        and in float64
    """
    rows = np.sort(np.random.default_rng(SEED).permutation(len(test.labels))[:ROWS])
    frame = test.frame.iloc[rows]
    expected = np.concatenate([model.predict(frame.iloc[at : at + _BATCH]) for at in range(0, len(rows), _BATCH)])

    deviation = standard_deviation(train.labels) if contract.task == "regression" else None

    def exported(precision: Precision) -> Export:
        content = rowwise(model.to_onnx(train, precision))
        predictions = OnnxModel(content, contract).predict(test.table)
        answers = predictions.score.reshape(-1, 1) if predictions.probabilities is None else predictions.probabilities
        found = compare(expected, answers[rows], contract, precision)
        found = found.model_copy(update={"label_deviation": deviation})
        beyond = int((_difference(expected, answers[rows]) > _tolerance(expected, deviation)).sum())
        return Export(content, predictions, found, beyond)

    single = exported("float32")
    if single.is_enough:
        return single
    double: Export | None = None
    if _has_trees(single.content):
        why = "ONNX computes tree ensembles only in float32"
    else:
        try:
            double = exported("float64")
            why = f"in float64 it {double.parity}"
        except Exception as error:  # noqa: BLE001 - the float32 export may be good enough
            why = f"it cannot be exported in float64 ({textwrap.shorten(str(error), 200)})"
    both = f"The ONNX export of {model.name} {single.parity}; {why}"
    if double is not None and double.is_faithful and double.is_nearer(single):
        progress(f"{both}. The float64 export is used.")
        return double
    if not single.is_faithful:
        raise ModelFormatError(
            f"{both}. The difference is too large for a rounding error. Scale features with values far from 0, use other "
            "parameters or preprocessing, or report the difference to skl2onnx."
        )
    progress(f"{both}.")
    return single


def compare(
    expected: NDArray[np.float64], answers: NDArray[np.float64], contract: ModelContract, precision: Precision
) -> Parity:
    """Compute how far the output of an export deviates from the output of the model.

    :param expected: output of the model, shape (n, k) with n > 0. The columns are probabilities in the order of the
        contract's classes, or for a regression the value (k = 1)
    :param answers: output of the export, same shape as ``expected``
    :param contract: the model contract, with the classes and the decision threshold
    :param precision: precision of the export
    """
    difference = _difference(expected, answers)
    largest = float(difference.max())
    flips = near = None
    if contract.task != "regression":
        flips = int((from_values(expected, contract).prediction != from_values(answers, contract).prediction).sum())
        near = int((_margin(expected, contract) <= largest).sum()) if largest else 0
    return Parity(
        precision=precision,
        rows=len(expected),
        max_difference=largest,
        p99_difference=float(np.quantile(difference, 0.99)),
        label_flips=flips,
        near_threshold=near,
    )


def other_labels(model: FittedModel, contract: ModelContract, frame: pd.DataFrame) -> int:
    """Count the rows in which the label that the model predicts differs from the label by the model contract.

    The label by the contract is the class with the largest probability. For a binary model, the decision threshold of
    the contract chooses the class. Rows with a tie are not counted.

    :param model: the fitted model
    :param contract: the model contract
    :param frame: the features of n rows
    """
    own = model.labels(frame)
    if own is None:
        return 0
    probabilities = model.predict(frame)
    decided = _margin(probabilities, contract) > _TIE
    return int(((own != from_values(probabilities, contract).prediction) & decided).sum())


def metrics(contract: ModelContract) -> dict[str, float]:
    """Return the differences between model and export as MLflow metrics, by name.

    :param contract: the model contract, with ``parity``
    """
    assert contract.parity is not None
    found = contract.parity.model_dump(exclude={"precision", "rows", "label_deviation"}, exclude_none=True)
    return {f"onnx_{name}": float(value) for name, value in found.items()}


def _difference(expected: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the largest difference in each row, shape (n,). NaN counts as an infinite difference."""
    difference: NDArray[np.float64] = np.abs(answers - expected).max(axis=1)
    return np.where(np.isnan(difference), np.inf, difference)


def _tolerance(expected: NDArray[np.float64], deviation: float | None) -> NDArray[np.float64]:
    """Compute the largest difference that counts as a rounding error, for each row, shape (n,).

    :param expected: output of the model, shape (n, k)
    :param deviation: for a regression, the standard deviation of the labels
    """
    if deviation is None:
        return np.full(len(expected), TOLERANCE)
    own = TOLERANCE * np.abs(expected[:, 0]) + ROUNDING * deviation
    # If all labels are equal, their standard deviation gives no scale for the limit.
    return np.fmin(own, TOLERANCE * DEVIATIONS * deviation) if deviation else own


def _margin(expected: NDArray[np.float64], contract: ModelContract) -> NDArray[np.float64]:
    """Compute the smallest change of the probabilities that can flip the predicted label of each row, shape (n,)."""
    if contract.task == "binary":
        score = expected[:, contract.classes.index(contract.positive)]
        return np.asarray(np.abs(score - contract.threshold))
    second, first = np.partition(expected, -2, axis=1)[:, -2:].T
    # One probability may decrease while the other increases.
    return np.asarray((first - second) / 2)


def standard_deviation(values: NDArray[np.float64]) -> float:
    """Compute the standard deviation without overflow, even if squares of values are beyond the range of doubles."""
    largest = float(np.abs(values).max())
    return largest * float((values / largest).std()) if largest else 0.0


def _has_trees(content: bytes) -> bool:
    """Return whether an ONNX model contains tree ensembles, which compute in float32 for inputs of any type."""
    import onnx

    return any(node.op_type.startswith("TreeEnsemble") for node in onnx.load_from_string(content).graph.node)
