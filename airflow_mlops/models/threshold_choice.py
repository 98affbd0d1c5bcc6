"""Choose the decision threshold of a binary model on rows to which the model was not fitted.

Rows with equal scores get equal labels, so with m different scores, only m + 1 thresholds give different labels. With
the largest threshold, no row is predicted to be positive. Each threshold lies midway between two neighbouring scores,
so that rounding in another library or batch size does not change labels. Ties: the smallest threshold is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from airflow_mlops.core.contract import ThresholdChoice, ThresholdPoint
from airflow_mlops.core.errors import TrainingError
from airflow_mlops.models.rules.threshold import NEVER, ThresholdRule

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Cost = NDArray[np.float64] | float

_POINTS = 101


@dataclass(frozen=True)
class Thresholds:
    """The k thresholds of n rows that give different labels, in descending order.

    With weights, each row counts by its weight in ``hits``, ``predicted``, ``positives``, ``total`` and ``cost``.

    :param value: the thresholds, shape (k,)
    :param hits: number of positive rows that are predicted to be positive, shape (k,)
    :param predicted: number of rows that are predicted to be positive, shape (k,)
    :param positives: number of positive rows
    :param total: number of rows
    :param cost: sum of the costs of all errors, shape (k,); ``None`` if no costs were given
    """

    value: NDArray[np.float64]
    hits: NDArray[Any]
    predicted: NDArray[Any]
    positives: float
    total: float
    cost: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        truth: NDArray[np.bool_],
        score: NDArray[np.float64],
        weight: NDArray[np.float64] | None = None,
        costs: tuple[Cost, ...] | None = None,
    ) -> Thresholds:
        """Return the thresholds of n rows.

        :param truth: whether each row is positive, shape (n,) with n > 0
        :param score: probability of the positive class, shape (n,)
        :param weight: the weight of each row, above 0, shape (n,); ``None`` if each row counts once
        :param costs: costs of a false positive and of a false negative: numbers, or the cost of each row, shape (n,)
        """
        # In float32, the midpoint of two scores would be rounded differently.
        lows, group = np.unique(-np.asarray(score, dtype=np.float64), return_inverse=True)
        lows = -lows
        middle = (lows[:-1] + lows[1:]) / 2
        # No number lies between two neighbouring doubles. The threshold is then the higher score.
        middle = np.where(middle > lows[1:], middle, lows[:-1])
        each = np.ones(len(truth), dtype=np.int64) if weight is None else weight

        def sums(values: NDArray[Any]) -> NDArray[Any]:
            found = np.bincount(group, weights=values, minlength=len(lows))
            return found.astype(np.int64) if weight is None and values.dtype.kind == "i" else found

        positive, negative = sums(each * truth), sums(each * ~truth)
        hits, wrong = (np.concatenate([[0], found.cumsum()]) for found in (positive, negative))
        cost = None
        if costs is not None:
            charged, missed = costs
            # Costs that are numbers are multiplied by counts, and counts are exact. The costs of missed rows are added
            # from the lowest score on, so that they are exactly 0 where no row is missed.
            if isinstance(charged, np.ndarray):
                paid = sums(charged * each * ~truth).cumsum()
            else:
                paid = charged * negative.cumsum()
            if isinstance(missed, np.ndarray):
                left = sums(missed * each * truth)[::-1].cumsum()[::-1]
            else:
                left = missed * positive[::-1].cumsum()[::-1]
            cost = np.concatenate([[0.0], paid]) + np.concatenate([left, [0.0]])
        return cls(
            np.concatenate([[NEVER], middle, [0.0]]),
            hits,
            hits + wrong,
            hits[-1].item(),
            (hits[-1] + wrong[-1]).item(),
            cost,
        )

    @property
    def precision(self) -> NDArray[np.float64]:
        """Return the precision at each threshold, shape (k,); NaN if no row is predicted to be positive."""
        # With weights, the sums that replace the numbers of rows may be below 1.
        some = self.predicted > 0
        return np.where(some, self.hits / np.where(some, self.predicted, 1), np.nan)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Return the recall at each threshold, shape (k,)."""
        return self.hits / self.positives

    def goal(self, rule: ThresholdRule) -> NDArray[np.float64]:
        """Return the quantity that ``rule`` maximises at each threshold, shape (k,).

        It is minus infinity where the condition of the rule is not met.
        """
        false_positives = self.predicted - self.hits
        if rule.cost is not None:
            assert self.cost is not None
            return -self.cost
        if rule.precision is not None:
            return np.where(self.precision >= rule.precision, self.recall, -np.inf)
        if rule.recall is not None:
            return np.where(self.recall >= rule.recall, self.precision, -np.inf)
        if rule.maximise == "f1":
            return 2 * self.hits / (self.positives + self.predicted)
        negatives = self.total - self.positives
        rejected = negatives - false_positives
        if rule.maximise == "accuracy":
            return np.asarray((self.hits + rejected) / self.total)
        # A single division avoids the rounding of a sum of two fractions, by which equally good thresholds could
        # differ.
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
            positives=float(self.predicted[index] / self.total),
        )


def choose(
    rule: ThresholdRule,
    truth: NDArray[np.bool_],
    score: NDArray[np.float64],
    source: str,
    weight: NDArray[np.float64] | None = None,
    costs: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[float, ThresholdChoice]:
    """Choose the threshold, and describe the choice.

    :param rule: a rule, not a number
    :param truth: whether each row is positive, shape (n,), with rows of both classes
    :param score: probability of the positive class, shape (n,)
    :param source: description of how the rows were chosen
    :param weight: the weight of each row in the rule, above 0, shape (n,); ``None`` if each row counts once
    :param costs: the columns of costs that the rule names, each of shape (n,)
    :raises TrainingError: no threshold meets the condition of the rule
    """
    given: tuple[Cost, ...] | None = None
    if rule.cost is not None:
        given = tuple(_of_rows(rule.cost[error], costs or {}) for error in ("false_positive", "false_negative"))
    found = Thresholds.of(truth, score, weight, given)
    goal = found.goal(rule)
    best = goal.max()
    if best == -np.inf:
        raise TrainingError(
            f"No threshold has a precision of at least {rule.precision:g} on the {len(truth):,} rows on which it is chosen "
            f"({source}, {int(truth.sum()):,} positive): the greatest is {np.nanmax(found.precision):.4g}. Set a lower precision, or "
            "use more rows or a better model."
        )
    index = len(goal) - 1 - int(goal[::-1].argmax())
    shown = np.unique(np.linspace(0, len(goal) - 1, _POINTS).astype(int))
    choice = ThresholdChoice(
        rule=str(rule),
        rows=len(truth),
        source=source,
        point=found.point(index),
        curve=[found.point(place) for place in shown],
    )
    return float(found.value[index]), choice


def _of_rows(cost: float | str, columns: Mapping[str, NDArray[np.float64]]) -> Cost:
    return columns[cost] if isinstance(cost, str) else cost
