"""Compare the performance of a window with the performance at training, as two samples.

Both values are estimates. The value at training is measured on the held-out split part, which is often smaller than a
window, so the value at training often has the larger error. The interval of the difference is computed from the
intervals of both values, which may be asymmetric (MOVER, the method of variance estimates recovery: R. Newcombe,
"Interval Estimation for the Difference Between Independent Proportions", Statistics in Medicine 17, 1998; G. Zou and A.
Donner, "Construction of Confidence Limits About Effect Measures", Statistics in Medicine 27, 2008).

The value at training is too optimistic if the version was selected among several models on the same held-out rows (the
winner's curse). The interval of the difference therefore holds for all compared models together: with k models, its
confidence is ``1 - (1 - confidence) / k`` (Bonferroni). The interval then also holds for the selected model,
for any rule of selection and any similarity of the models.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple, Protocol


class Estimate(Protocol):
    """A value in a window and at training, each with its confidence interval, such as a ``Performance``."""

    @property
    def value(self) -> float: ...

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...

    @property
    def reference(self) -> float | None: ...

    @property
    def reference_low(self) -> float | None: ...

    @property
    def reference_high(self) -> float | None: ...

    @property
    def compared(self) -> int: ...


class Difference(NamedTuple):
    """The confidence interval of a difference: the value in the window minus the value at training."""

    low: float
    high: float


def difference(performance: Estimate, confidence: float) -> Difference | None:
    """Return the confidence interval of the difference between the value in the window and the value at training.

    If the value at training has no interval, it is treated as exact.

    :param performance: performance or a fairness metric in a window, whose intervals have the confidence ``confidence``
    :param confidence: confidence of the interval, such as 0.95
    :return: ``None`` if the value at training is unknown
    """
    reference = performance.reference
    if reference is None:
        return None
    low, high = performance.reference_low, performance.reference_high
    below, above = (0.0, 0.0) if low is None or high is None else (reference - low, high - reference)
    # A value at training without an interval is treated as exact, so the selection among several models needs no correction.
    wider = 1.0 if low is None else _z(1 - (1 - confidence) / performance.compared) / _z(confidence)
    change = performance.value - reference
    return Difference(
        change - wider * math.hypot(performance.value - performance.low, above),
        change + wider * math.hypot(performance.high - performance.value, below),
    )


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)
