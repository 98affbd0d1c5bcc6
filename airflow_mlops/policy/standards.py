"""The standards that performance is compared with: training, an absolute bound, and the best level of recent champions.

The value at training is the standard of a single version. The value at training is a low standard if the version was
promoted while all models performed badly. The other two standards do not depend on the version: the bound is a number
of the policy, and the best recent level is the best of all recent versions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from airflow_mlops.metrics.catalog import COVERAGE
from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.spec import Policy


class Standard(NamedTuple):
    """A standard, and how performance compares with it.

    :param kind: ``bound`` (``min`` or ``max`` of the policy), ``training``, or ``recent`` (the best recent level)
    :param limit: the worst acceptable value of the metric
    :param exceeded: whether the value is worse than ``limit``, significantly or not
    :param broken: whether the value is significantly worse than ``limit``
    """

    kind: Literal["bound", "training", "recent"]
    limit: float
    exceeded: bool
    broken: bool


def standards(performance: Performance, policy: Policy) -> list[Standard]:
    """Return the standards whose level is known: the bound first, then training, then the best recent level."""
    found = (_bound(performance, policy), _training(performance, policy), _recent(performance, policy))
    return [standard for standard in found if standard is not None]


def tolerance(performance: Performance, level: float, policy: Policy) -> float:
    """Return how much worse than ``level`` the metric may be, in the unit of the metric."""
    return policy.tolerance if performance.has_absolute_tolerance else abs(level) * policy.tolerance


def _bound(performance: Performance, policy: Policy) -> Standard | None:
    if performance.metric == COVERAGE:
        # ``min`` and ``max`` of the policy are bounds of the policy's metric, not of the interval coverage.
        return None
    if policy.min is not None:
        return Standard("bound", policy.min, performance.value < policy.min, performance.high < policy.min)
    if policy.max is not None:
        return Standard("bound", policy.max, performance.value > policy.max, performance.low > policy.max)
    return None


def _training(performance: Performance, policy: Policy) -> Standard | None:
    """Compare performance with its value at training; return ``None`` if the difference is unknown.

    :func:`airflow_mlops.performance.difference.difference` computes the confidence interval of the difference.
    """
    level, change = performance.reference, difference(performance, policy.confidence)
    if level is None or change is None:
        return None
    return _relative("training", performance, level, change.low, change.high, policy)


def _recent(performance: Performance, policy: Policy) -> Standard | None:
    known = performance.recent
    if known is None or policy.best_recent is None:
        return None
    return _relative("recent", performance, known.value, known.low, known.high, policy)


def _relative(
    kind: Literal["training", "recent"], performance: Performance, level: float, low: float, high: float, policy: Policy
) -> Standard:
    """Compare performance with a level. The standard is broken if the whole interval exceeds the tolerance.

    :param kind: kind of the standard
    :param level: the value at training, or the best recent level
    :param low: lower end of the confidence interval of the difference between the value and ``level``
    :param high: upper end of this interval
    """
    allowed = tolerance(performance, level, policy)
    if performance.higher_is_better:
        limit = level - allowed
        return Standard(kind, limit, performance.value < limit, high < limit - level)
    limit = level + allowed
    return Standard(kind, limit, performance.value > limit, low > limit - level)
