"""The best level of recent champions, a reference that does not change if a worse version is promoted.

The level of a version is the mean of the metric over the windows in which the version made the predictions. Windows
differ by more than the sampling error of their rows, so the level is not treated as exact. The windows of the version
are a sample. Under the hypothesis that nothing has changed, the current window is one more draw from the same
distribution. The interval of the difference is a prediction interval for a new window (J. Higgins, S. Thompson and D.
Spiegelhalter, "A Re-evaluation of Random-effects Meta-analysis", Journal of the Royal Statistical Society A 172, 2009).
Its variance is the sum of three variances: of the current value, of the mean, and between windows. With m windows, the
quantile is taken from Student's t distribution with m - 1 degrees of freedom.

The best of several versions is partly the best by chance. With k versions, the interval therefore has the confidence
``1 - (1 - confidence) / k`` (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, variance

from airflow_mlops.performance.findings import Performance, RecentLevel

MIN_WINDOWS = 3
"""The smallest number of windows of a version from which its level is computed."""


def best_recent(
    current: Performance, windows: Mapping[int, Sequence[Performance]], confidence: float
) -> RecentLevel | None:
    """Compare performance in a window with the best earlier version: the one with the best mean over its windows.

    :param current: performance in the current window
    :param windows: performance in the earlier windows of each version. Values of another metric, or with other weights
        of rows, are left out
    :param confidence: confidence of all intervals, such as 0.95
    :return: ``None`` if no version has at least :data:`MIN_WINDOWS` windows
    """
    known = {
        version: same
        for version, found in windows.items()
        if len(same := [item for item in found if (item.metric, item.weight) == (current.metric, current.weight)])
        >= MIN_WINDOWS
    }
    if not known:
        return None
    sign = 1 if current.higher_is_better else -1
    means = {version: fmean(item.value for item in found) for version, found in known.items()}
    version = max(means, key=lambda number: sign * means[number])
    low, high = _difference(current, known[version], confidence, len(known))
    return RecentLevel(
        version=version, windows=len(known[version]), value=means[version], low=low, high=high, compared=len(known)
    )


def _difference(
    current: Performance, earlier: Sequence[Performance], confidence: float, compared: int
) -> tuple[float, float]:
    """Return the interval of the current value minus the mean of the earlier values.

    :param current: performance in the current window
    :param earlier: performance in the windows of one version, at least two
    :param confidence: confidence of all intervals, such as 0.95
    :param compared: number of versions from which the best version was selected
    """
    from scipy import special

    z, count = NormalDist().inv_cdf(0.5 + confidence / 2), len(earlier)
    sampling = fmean((max(item.high - item.value, item.value - item.low) / z) ** 2 for item in earlier)
    between = max(0.0, variance(item.value for item in earlier) - sampling)
    others = between * (1 + 1 / count) + sampling / count
    quantile = float(special.stdtrit(count - 1, 1 - (1 - confidence) / compared / 2))
    change = current.value - fmean(item.value for item in earlier)
    below, above = ((end / z) ** 2 for end in (current.value - current.low, current.high - current.value))
    return change - quantile * math.sqrt(below + others), change + quantile * math.sqrt(above + others)
