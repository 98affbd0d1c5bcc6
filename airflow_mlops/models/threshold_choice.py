"""Choose the decision threshold of a binary model on rows to which the model was not fitted.

Rows with equal scores get equal labels, so with m different scores, only m + 1 thresholds give different labels. With
the largest threshold, no row is predicted to be positive. Each threshold lies midway between the lowest score that is
predicted to be positive and the next lower score, so that rounding in another library or batch size does not change
labels. Ties: the smallest threshold is chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from airflow_mlops.core.contract import ThresholdChoice, ThresholdPoint
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.threshold_rule import NEVER, ThresholdRule

if TYPE_CHECKING:
    from numpy.typing import NDArray

_POINTS = 101


@dataclass(frozen=True)
class Thresholds:
    """The k thresholds of n rows that give different labels, in descending order.

    :param value: the thresholds, shape (k,)
    :param hits: number of positive rows that are predicted to be positive, shape (k,)
    :param predicted: number of rows that are predicted to be positive, shape (k,)
    :param positives: number of positive rows
    :param rows: number of rows
    """

    value: NDArray[np.float64]
    hits: NDArray[np.int64]
    predicted: NDArray[np.int64]
    positives: int
    rows: int

    @classmethod
    def of(cls, truth: NDArray[np.bool_], score: NDArray[np.float64]) -> Thresholds:
        """Return the thresholds of n rows.

        :param truth: whether each row is positive, shape (n,) with n > 0
        :param score: probability of the positive class, shape (n,)
        """
        # In float32, the midpoint of two scores would be rounded differently.
        lows, group = np.unique(-np.asarray(score, dtype=np.float64), return_inverse=True)
        lows = -lows
        middle = (lows[:-1] + lows[1:]) / 2
        # No number lies between two neighbouring doubles. The threshold is then the higher score.
        middle = np.where(middle > lows[1:], middle, lows[:-1])
        size = len(lows)
        return cls(
            np.concatenate([[NEVER], middle, [0.0]]),
            np.concatenate([[0], np.bincount(group, weights=truth, minlength=size).cumsum().astype(np.int64)]),
            np.concatenate([[0], np.bincount(group, minlength=size).cumsum()]),
            int(truth.sum()),
            len(truth),
        )

    @property
    def precision(self) -> NDArray[np.float64]:
        """Return the precision at each threshold, shape (k,); NaN if no row is predicted to be positive."""
        return np.where(self.predicted > 0, self.hits / np.maximum(1, self.predicted), np.nan)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Return the recall at each threshold, shape (k,)."""
        return self.hits / self.positives

    def goal(self, rule: ThresholdRule) -> NDArray[np.float64]:
        """Return the quantity that ``rule`` maximises at each threshold, shape (k,).

        It is minus infinity where the condition of the rule is not met.
        """
        false_positives, missed = self.predicted - self.hits, self.positives - self.hits
        if rule.cost is not None:
            return -(rule.cost["false_positive"] * false_positives + rule.cost["false_negative"] * missed)
        if rule.precision is not None:
            return np.where(self.precision >= rule.precision, self.recall, -np.inf)
        if rule.recall is not None:
            return np.where(self.recall >= rule.recall, self.precision, -np.inf)
        if rule.maximise == "f1":
            return 2 * self.hits / (self.positives + self.predicted)
        negatives = self.rows - self.positives
        rejected = negatives - false_positives
        if rule.maximise == "accuracy":
            return np.asarray((self.hits + rejected) / self.rows)
        # A sum of two fractions would be rounded, so equally good thresholds could differ.
        return np.asarray((self.hits * negatives + rejected * self.positives) / (2 * self.positives * negatives))

    def point(self, index: int) -> ThresholdPoint:
        """Return a threshold with its precision, its recall and the share of rows that are predicted to be positive.

        :param index: position of the threshold
        """
        precision = float(self.precision[index])
        return ThresholdPoint(
            threshold=float(self.value[index]),
            precision=None if math.isnan(precision) else precision,
            recall=float(self.recall[index]),
            positives=float(self.predicted[index] / self.rows),
        )


def choose(
    rule: ThresholdRule, truth: NDArray[np.bool_], score: NDArray[np.float64], source: str
) -> tuple[float, ThresholdChoice]:
    """Choose the threshold, and describe the choice.

    :param rule: a rule, not a number
    :param truth: whether each row is positive, shape (n,), with rows of both classes
    :param score: probability of the positive class, shape (n,)
    :param source: description of how the rows were chosen
    :raises TrainingError: no threshold meets the condition of the rule
    """
    found = Thresholds.of(truth, score)
    goal = found.goal(rule)
    best = goal.max()
    if best == -np.inf:
        raise TrainingError(
            f"No threshold has a precision of at least {rule.precision:g} on the {found.rows:,} rows on which it is chosen "
            f"({source}, {found.positives:,} positive): the greatest is {np.nanmax(found.precision):.4g}. Set a lower precision, or "
            "use more rows or a better model."
        )
    index = len(goal) - 1 - int(goal[::-1].argmax())
    shown = np.unique(np.linspace(0, len(goal) - 1, _POINTS).astype(int))
    choice = ThresholdChoice(
        rule=str(rule),
        rows=found.rows,
        source=source,
        point=found.point(index),
        curve=[found.point(place) for place in shown],
    )
    return float(found.value[index]), choice
