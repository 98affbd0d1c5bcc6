"""Confidence intervals that stay valid with few rows, few errors, few rows of a class, or skewed losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_mlops.metrics.moments import Moments, moments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Values that differ less from 0 or 1 differ only by rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """The value of a metric, and the lower and upper end of its two-sided confidence interval."""

    value: float
    low: float
    high: float


def proportion(value: float, rows: float, z: float) -> Interval:
    """Compute Wilson's interval of a proportion.

    The interval stays between 0 and 1, and its width is not 0 even if ``value`` is 0 or 1.

    Source: E. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the American
    Statistical Association 22 (1927).

    :param value: the proportion, from 0 to 1
    :param rows: number of rows, or the effective number of rows, at least 1
    :param z: quantile of the normal distribution, such as 1.96
    """
    middle = (value + z * z / (2 * rows)) / (1 + z * z / rows)
    spread = z * math.sqrt(value * (1 - value) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    # The interval must contain the value. Rounding errors could exclude the values 0 and 1.
    return Interval(value, max(0.0, min(value, middle - spread)), min(1.0, max(value, middle + spread)))


def bounded(value: float, variance: float, rows: float, z: float) -> Interval:
    """Compute the interval of an estimate from 0 to 1 that is not a proportion, such as an area under the ROC curve.

    The interval is Wilson's interval with an effective number of rows, the number of rows with which a proportion has
    the same variance (E. Korn and B. Graubard, "Confidence Intervals for Proportions With Small Expected Number of
    Positive Counts Estimated From Survey Data", Survey Methodology 24, 1998).

    With few rows, the estimated variance is often far too small, or 0. Its ratio to the variance of a proportion, which
    is the largest possible variance, is therefore shrunk towards 1. As in Wilson's own correction, z**2 rows with the
    ratio 1 are added.

    :param value: the estimate
    :param variance: estimated variance of the estimate; infinite or NaN if it is unknown
    :param rows: number of rows that determine the variance, such as the rows of the rarer class, at least 1
    :param z: quantile of the normal distribution, such as 1.96
    """
    most = value * (1 - value) / rows
    # If all predictions are right or all are wrong, the estimated variance is 0 and carries no information. With weights,
    # the value is then 0 or 1 except for rounding.
    ratio = variance / most if value * (1 - value) > ROUNDING and math.isfinite(variance) else 1.0
    ratio = (rows * ratio + z * z) / (rows + z * z)
    return proportion(value, rows / ratio, z)


def mean(values: NDArray[np.float64], z: float, independent: float | None = None) -> Interval:
    """Compute the interval of a mean of skewed values, such as losses, see :func:`of_moments`.

    :param values: shape (n,)
    :param z: quantile of the normal distribution, such as 1.96
    :param independent: effective number of rows; n by default
    """
    found = moments(lambda: [(values, None)])
    return of_moments(found if independent is None else found._replace(effective=independent), z)


def of_moments(found: Moments, z: float) -> Interval:
    """Compute the interval of a mean of skewed values, such as losses.

    The interval of Student's t is corrected for the skewness of the mean (P. Hall, "On the Removal of Skewness by
    Transformation", Journal of the Royal Statistical Society B 54, 1992). The upper end of a plain interval of losses
    is too low: few large losses determine the mean, and a sample often lacks them.

    :param found: the moments of the values. The effective number of rows determines the degrees of freedom of Student's t
    :param z: quantile of the normal distribution, such as 1.96
    :return: the interval; infinite with fewer than two values or if the standard deviation is not finite
    """
    rows, value, own = found.rows, found.mean, found.own
    if rows < 2:
        return Interval(value, -math.inf, math.inf)
    spread = math.sqrt(own.squares / (rows - 1)) if own.squares >= 0 else math.nan
    if not (spread > 0 and math.isfinite(spread)):
        return Interval(value, value, value) if spread == 0 else Interval(value, -math.inf, math.inf)
    t = z + (z**3 + z) / (4 * max(1.0, found.effective - 1))
    skewness = own.skewness(rows)
    ends = (_unskewed(quantile / math.sqrt(rows), skewness, rows) * spread for quantile in (t, -t))
    low, high = (value - end for end in ends)
    return Interval(value, low, high)


def _unskewed(x: float, skewness: float, rows: int) -> float:
    """Return the error of a mean, in standard deviations, that Hall's transformation maps to ``x``."""
    if abs(skewness) < 1e-6:
        return x
    return (
        (math.copysign(abs(inner := 1 + skewness * (x - skewness / (6 * rows))) ** (1 / 3), inner) - 1) * 3 / skewness
    )
