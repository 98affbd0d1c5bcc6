"""Compare the champion with challengers: models that the champion's trainer fits to newer rows.

A challenger answers the question whether retraining would help now. All models predict the same labelled rows, so the
comparison is paired: differences between windows, such as noisier labels, affect all models alike and cancel out.

The first window after a retraining asks for nothing (:func:`rests`). A challenger knows half of the compared window, and
the newest possible champion knows nothing of it. In a series that moves all the time, such as the weather, this difference
alone is a gain in every window, and another training would not remove it. A gain in a later window shows that the champion
ages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from statistics import NormalDist
from typing import TYPE_CHECKING

from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.clusters import design, student
from airflow_mlops.performance.challenger import Challenger, Comparison, Gain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DECAY = 0.6
"""The weight of a window in the pooled gain is ``DECAY`` to the power of the number of later windows."""


def compare(
    champion: NDArray[np.float64],
    challenger: NDArray[np.float64],
    past: int | None,
    trained_rows: int,
    value: float,
    groups: NDArray[np.int64] | None = None,
) -> Challenger:
    """Compare the losses of a challenger with the losses of the champion on the same rows.

    :param champion: losses of the champion, shape (n,)
    :param challenger: losses of the challenger for the same rows, shape (n,)
    :param past: number of windows that the challenger was trained on; ``None`` for all windows
    :param trained_rows: number of rows that the challenger was trained on
    :param value: metric of the challenger
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    """
    gains = champion - challenger
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    known = design(gains, groups) if groups is not None else None
    return Challenger(
        past=past,
        trained_rows=trained_rows,
        value=value,
        gain=float(gains.mean()),
        standard_error=error if known is None else error * math.sqrt(known.effect),
        clusters=None if known is None else known.clusters,
    )


def best_gain(
    current: Comparison, earlier: Sequence[tuple[int, Comparison]], confidence: float, min_gain: float
) -> Gain | None:
    """Return the gain of the best challenger that is significant and large enough; ``None`` without such a challenger.

    A window that :func:`rests` has no such challenger.

    A gain is significant if its lower confidence bound is above zero, and large enough if it is at least ``min_gain``.
    The gain of the current window alone is considered, and the mean over all windows since the champion's promotion, in
    which later windows weigh more (exponentially weighted moving average). The mean finds a small gain that lasts, and
    the current window alone finds a sudden one. The error probability is divided among the challengers (Bonferroni).

    For clustered rows, the quantile is that of Student's t with the smallest number of clusters of a window, and the
    errors of windows add up as if they were perfectly correlated, because the same clusters may occur in all windows.

    :param current: the comparison on the current window
    :param earlier: comparisons with the same champion on earlier windows, each with the number of windows since then
    :param confidence: confidence level of the two-sided interval, such as 0.95
    :param min_gain: the smallest gain that counts, as a share of the champion's loss
    """
    if rests(current, earlier):
        return None
    level = (1 - confidence) / 2 / len(current.challengers)
    z = NormalDist().inv_cdf(1 - level)
    gains = [
        gain
        for challenger in current.challengers
        for gain in _gains(challenger, current, earlier, z)
        if gain.low > 0 and gain.share >= min_gain
    ]
    return max(gains, key=lambda gain: gain.share, default=None)


def rests(current: Comparison, earlier: Sequence[tuple[int, Comparison]]) -> bool:
    """Return whether the window asks for nothing, because it is the first one after a retraining.

    :param current: the comparison on the current window
    :param earlier: comparisons on earlier windows. One with another champion shows that the champion was retrained
    """
    return current.since_training == 1 and any(known.champion != current.champion for _, known in earlier)


def _gains(
    challenger: Challenger, current: Comparison, earlier: Sequence[tuple[int, Comparison]], z: float
) -> list[Gain]:
    """Return the gain in the current window, and the weighted mean of the gains in all windows."""
    points = [(1.0, challenger, current.loss)]
    for since, comparison in earlier:
        known = next((item for item in comparison.challengers if item.past == challenger.past), None)
        if comparison.champion == current.champion and comparison.metric == current.metric and known is not None:
            points.append((DECAY**since, known, comparison.loss))
    alone = _gain(challenger, points[:1], z)
    return [alone] if len(points) == 1 else [alone, _gain(challenger, points, z)]


def _gain(challenger: Challenger, points: Sequence[tuple[float, Challenger, float]], z: float) -> Gain:
    loss = sum(weight * loss for weight, _, loss in points)
    if loss <= 0:
        return Gain(past=challenger.past, value=challenger.value, share=0.0, low=0.0, windows=len(points))
    gain = sum(weight * item.gain for weight, item, _ in points)
    errors = [weight * item.standard_error for weight, item, _ in points]
    clusters = [item.clusters for _, item, _ in points if item.clusters is not None]
    error = sum(errors) if clusters else math.hypot(*errors)
    z = student(z, min(clusters)) if clusters else z
    return Gain(
        past=challenger.past,
        value=challenger.value,
        share=gain / loss,
        low=(gain - z * error) / loss,
        windows=len(points),
    )


def windows_between(earlier: Window, later: Window) -> int:
    """Return the number of windows from ``earlier`` to ``later``, in lengths of ``later``; at least 1."""
    return max(1, windows_after(earlier.start, later))


def windows_after(time: datetime, window: Window) -> int:
    """Return the number of windows from ``time`` to the start of ``window``, in lengths of ``window``, rounded.

    The number is rounded, because months differ in length.
    """
    return round((window.start - time) / (window.end - window.start))
