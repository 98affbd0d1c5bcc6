"""A model's ONNX export beside the model itself: how near its answers are, and in which precision it has to compute."""

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
from airflow_mlops.models.onnx.scorer import OnnxModel
from airflow_mlops.models.scorer import from_values
from airflow_mlops.models.trainers.base import FittedModel, TrainingData

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, SEED = 20_000, 0
# What is more than rounding, as a share of the answers' range.
TOLERANCE = 1e-3
# A tree's threshold or the nearest of neighbours lets rounding make a leap, but not in more than this share of rows.
LEAPS = 1e-3
# Rows given to the model at once: some make an intermediate as large as the training set for each.
_BATCH = 4096


@dataclass(frozen=True)
class Export:
    """A model's ONNX form.

    :param predictions: what it answers for all held-out rows
    :param beyond: rows of ``parity`` whose difference is more than rounding
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
        """Whether a higher precision, which costs twice the time at every prediction, has nothing to mend but leaps."""
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
    """Export ``model`` in float32, or in float64 where float32 is too coarse for it and float64 is nearer.

    :raises ModelFormatError: it cannot be exported, or its export answers differently in both
    """
    rows = np.sort(np.random.default_rng(SEED).permutation(len(test.labels))[:ROWS])
    frame = test.frame.iloc[rows]
    expected = np.concatenate([model.predict(frame.iloc[at : at + _BATCH]) for at in range(0, len(rows), _BATCH)])

    def exported(precision: Precision) -> Export:
        content = model.to_onnx(train, precision)
        predictions = OnnxModel(content, contract).predict(test.table)
        answers = predictions.score.reshape(-1, 1) if predictions.probabilities is None else predictions.probabilities
        found = compare(expected, answers[rows], contract, precision)
        return Export(content, predictions, found, _beyond(expected, answers[rows], contract))

    single = exported("float32")
    if single.is_enough:
        return single
    double: Export | None = None
    if _adds_up_trees(single.content):
        why = "ONNX adds up trees in float32 alone"
    else:
        try:
            double = exported("float64")
            why = f"in float64 it {double.parity}"
        except Exception as error:  # noqa: BLE001 - there is an export already
            why = f"it has no form in float64 ({textwrap.shorten(str(error), 200)})"
    both = f"The ONNX export of {model.name} {single.parity}; {why}"
    if double is not None and double.is_faithful and double.is_nearer(single):
        progress(f"{both}, which is taken.")
        return double
    if not single.is_faithful:
        raise ModelFormatError(
            f"The ONNX export of {model.name} answers differently from the model itself: it {single.parity}; {why}. Take "
            "other parameters or preprocessing (numbers far from 0 are no features as they are), or report it to skl2onnx."
        )
    progress(f"{both}.")
    return single


def compare(
    expected: NDArray[np.float64], answers: NDArray[np.float64], contract: ModelContract, precision: Precision
) -> Parity:
    """Measure an export's answers.

    :param expected: what the model answers, shape (n, k): probabilities in the order of the contract's classes, or
        values (k = 1); n > 0
    :param answers: what its export answers, same shape
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


def metrics(contract: ModelContract) -> dict[str, float]:
    """What the MLflow run gets to know, by metric name."""
    assert contract.parity is not None
    found = contract.parity.model_dump(exclude={"precision", "rows"}, exclude_none=True)
    return {f"onnx_{name}": float(value) for name, value in found.items()}


def _difference(expected: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much each row's answer differs, shape (n,); no number differs from a number by infinity."""
    difference: NDArray[np.float64] = np.abs(answers - expected).max(axis=1)
    return np.where(np.isnan(difference), np.inf, difference)


def _margin(expected: NDArray[np.float64], contract: ModelContract) -> NDArray[np.float64]:
    """By how much every probability may change before the label could, shape (n,)."""
    if contract.task == "binary":
        score = expected[:, contract.classes.index(contract.positive)]
        return np.asarray(np.abs(score - contract.threshold))
    second, first = np.partition(expected, -2, axis=1)[:, -2:].T
    # The one may fall and the other rise.
    return np.asarray((first - second) / 2)


def _beyond(expected: NDArray[np.float64], answers: NDArray[np.float64], contract: ModelContract) -> int:
    scale = max(1.0, float(np.ptp(expected))) if contract.task == "regression" else 1.0
    return int((_difference(expected, answers) > TOLERANCE * scale).sum())


def _adds_up_trees(content: bytes) -> bool:
    """Whether there are trees in an ONNX model: whatever they are given, ONNX's ensembles compute in float32."""
    import onnx

    return any(node.op_type.startswith("TreeEnsemble") for node in onnx.load_from_string(content).graph.node)
