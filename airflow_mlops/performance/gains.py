"""Compare the champion with challengers, which are models trained on newer rows.

The trainer of the champion or of another candidate fits a challenger. A challenger shows whether retraining would help
now. All models predict the same labelled rows, so the comparison is paired: differences between windows, such as
noisier labels, affect all models equally and cancel out.

A challenger is trained on half of the compared window, but even a new champion is not trained on any row of the windows
that it predicts. If the data changes all the time, as the weather does, this difference alone gives a gain in every
window, and another training would not remove this gain. The gain in the first window after a training shows how large
it is. The median of these first gains over earlier champions is the usual gain (:func:`usual_gain`). Only the gain
above the usual gain counts.

If the relation between features and label is new in every window, challengers are better in every window as well, and
no training helps. Such data can be recognised after trainings: in the first window after each training, the new version
and the version that it replaced are compared (:func:`past_trainings`). If past trainings have not paid off, only an
unusually large gain counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from statistics import NormalDist, fmean, median
from typing import TYPE_CHECKING

from airflow_mlops.core.windows import Window
from airflow_mlops.metrics.clusters import design, student
from airflow_mlops.performance.challenger import Challenger, Comparison, Gain, OtherTrainer, PastTrainings
from airflow_mlops.performance.joint import joint_quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DECAY = 0.6
"""The weight of a window in the pooled gain is ``DECAY`` to the power of the number of later windows."""
MIN_TRAININGS = 6
"""The smallest number of trainings from which the policy judges whether trainings pay off."""
UNUSUAL = 2.0
"""If trainings do not pay off, a gain is unusual from this number of standard deviations above the median of first gains."""
# The median absolute deviation of a normal distribution, in standard deviations.
_DEVIATIONS = NormalDist().inv_cdf(0.75)


def compare(
    champion: NDArray[np.float64],
    challenger: NDArray[np.float64],
    past: int | None,
    trained_rows: int,
    value: float,
    groups: NDArray[np.int64] | None = None,
    trainer: OtherTrainer | None = None,
) -> Challenger:
    """Compare the losses of a challenger with the losses of the champion on the same rows.

    :param champion: losses of the champion, shape (n,)
    :param challenger: losses of the challenger for the same rows, shape (n,)
    :param past: number of windows that the challenger was trained on; ``None`` for all windows
    :param trained_rows: number of rows that the challenger was trained on; the larger number of its two trainings
    :param value: metric of the challenger
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    :param trainer: the trainer of the challenger; ``None`` for the champion's trainer
    """
    gains = champion - challenger
    known = design(gains, groups) if groups is not None else None
    return Challenger(
        trainer=trainer,
        past=past,
        trained_rows=trained_rows,
        value=value,
        gain=float(gains.mean()),
        standard_error=standard_error(gains, groups),
        clusters=None if known is None else known.clusters,
    )


def standard_error(gains: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> float:
    """Return the standard error of the mean of the gains of n rows.

    :param gains: differences of two losses of each row, shape (n,)
    :param groups: the number of the cluster of each row, shape (n,); ``None`` for independent rows
    :return: the standard error; infinite for a single row or a single cluster
    """
    if len(gains) < 2:
        return math.inf
    error = float(gains.std(ddof=1)) / math.sqrt(len(gains))
    return error if groups is None else error * math.sqrt(design(gains, groups).effect)


def best_gain(
    current: Comparison, earlier: Sequence[tuple[int, Comparison]], confidence: float, min_gain: float
) -> Gain | None:
    """Return the gain of the best challenger whose gain is significant and large enough; ``None`` without one.

    A gain is significant if its lower confidence bound is above zero. It is large enough if it exceeds the usual gain
    (:func:`usual_gain`) by at least ``min_gain``. The best challenger is the one that exceeds its usual gain most. Two
    gains of each challenger are considered: the gain in the current window, and the exponentially weighted mean of the
    gains in all windows since the champion's promotion. The mean detects a small but lasting gain, and the current
    window detects a sudden gain. The lower bounds of all challengers hold together with an error probability of ``(1 -
    confidence) / 2``, see :mod:`airflow_mlops.performance.joint`.

    The largest of several estimates is too large on average. With challengers of k trainers, each gain is therefore
    reduced by the quantile 1 - 1/(2k) of its error before it is compared with ``min_gain``. Among challengers with the
    same ``past``, the largest reduced gain is then above the largest true gain with a probability of at most one half
    (V. Chernozhukov, S. Lee and A. Rosen, "Intersection Bounds: Estimation and Inference", Econometrica 81, 2013). With
    one trainer, nothing is subtracted.

    For clustered rows, the quantile is taken from Student's t distribution, with the smallest effective number of
    clusters of any window. The errors of windows are assumed to be perfectly correlated, because the same clusters may
    occur in all windows.

    :param current: the comparison on the current window
    :param earlier: comparisons on earlier windows, each with the number of windows from then to the current window.
        Comparisons with another champion or by another metric are left out of the mean
    :param confidence: confidence level of the two-sided interval, such as 0.95
    :param min_gain: the smallest gain that counts, as a share of the champion's loss
    """
    z = joint_quantile((1 - confidence) / 2, len(current.challengers), current.correlations)
    trainers = len({challenger.trainer for challenger in current.challengers})
    selection = NormalDist().inv_cdf(1 - 0.5 / trainers)
    gains = [
        gain
        for challenger in current.challengers
        for gain in _gains(challenger, current, earlier, z, selection, min_gain)
        if gain.low > 0 and gain.share - gain.usual >= min_gain
    ]
    return max(gains, key=lambda gain: gain.share - gain.usual, default=None)


def usual_gain(
    challenger: Challenger, current: Comparison, earlier: Sequence[tuple[int, Comparison]], min_gain: float
) -> float:
    """Return the gain that a challenger usually has in the first window after a training.

    This is the median of the gains over earlier champions in the first window after their training. With fewer than two
    such windows, it is 0, because the data may really have changed in a single window. The first window of the current
    champion is left out, because a change in this window must not hide the gain in later windows.

    If past trainings have not paid off (:func:`past_trainings`), the usual gain is the limit of Hampel's identifier of
    outliers: the median plus :data:`UNUSUAL` standard deviations, which are estimated by the median absolute deviation
    (L. Davies and U. Gather, "The Identification of Multiple Outliers", Journal of the American Statistical Association
    88, 1993).

    :param challenger: a challenger of ``current``
    :param earlier: comparisons on earlier windows
    :param min_gain: the smallest mean gain of trainings that have paid off
    :return: the usual gain, as a share of the champion's loss; at least 0
    """
    first = [
        known.gain / comparison.loss
        for _, comparison in earlier
        if comparison.since_training == 1 and comparison.champion != current.champion
        if comparison.metric == current.metric and comparison.loss > 0
        for known in comparison.challengers
        if (known.trainer, known.past) == (challenger.trainer, challenger.past)
    ]
    if len(first) < 2:
        return 0.0
    usual, trainings = median(first), past_trainings(current, earlier, min_gain)
    if trainings is not None and not trainings.paid:
        usual += UNUSUAL * median(abs(gain - usual) for gain in first) / _DEVIATIONS
    return max(0.0, usual)


def past_trainings(
    current: Comparison, earlier: Sequence[tuple[int, Comparison]], min_gain: float
) -> PastTrainings | None:
    """Return the mean gain of past trainings; ``None`` for fewer than :data:`MIN_TRAININGS`.

    Trainings have paid off if their mean gain is at least ``min_gain``.

    :param earlier: comparisons on earlier windows. Comparisons by another metric are left out
    """
    gains = [
        1 - comparison.loss / comparison.replaced_loss
        for comparison in (*(comparison for _, comparison in earlier), current)
        if comparison.metric == current.metric
        if comparison.replaced_loss is not None and comparison.replaced_loss > 0
    ]
    if len(gains) < MIN_TRAININGS:
        return None
    return PastTrainings(number=len(gains), gain=fmean(gains), paid=fmean(gains) >= min_gain)


def _gains(
    challenger: Challenger,
    current: Comparison,
    earlier: Sequence[tuple[int, Comparison]],
    z: float,
    selection: float,
    min_gain: float,
) -> list[Gain]:
    """Return the gain in the current window, and the weighted mean of the gains in all windows."""
    points = [(1.0, challenger, current.loss)]
    for since, comparison in earlier:
        known = next(
            (
                item
                for item in comparison.challengers
                if (item.trainer, item.past) == (challenger.trainer, challenger.past)
            ),
            None,
        )
        if comparison.champion == current.champion and comparison.metric == current.metric and known is not None:
            points.append((DECAY**since, known, comparison.loss))
    usual = usual_gain(challenger, current, earlier, min_gain)
    alone = _gain(challenger, points[:1], z, selection, usual)
    return [alone] if len(points) == 1 else [alone, _gain(challenger, points, z, selection, usual)]


def _gain(
    challenger: Challenger,
    points: Sequence[tuple[float, Challenger, float]],
    z: float,
    selection: float,
    usual: float,
) -> Gain:
    """Return the weighted mean of the gains in several windows.

    :param points: the weight, the challenger's result and the champion's mean loss in each window
    :param z: quantile of the normal distribution for the lower bound
    :param selection: quantile of the normal distribution for the correction for the selection of the best trainer
    :param usual: the usual gain of the challenger
    """
    known = {
        "trainer": challenger.trainer,
        "past": challenger.past,
        "value": challenger.value,
        "windows": len(points),
        "usual": usual,
    }
    loss = sum(weight * loss for weight, _, loss in points)
    if loss <= 0:
        return Gain(**known, share=0.0, low=0.0)
    gain = sum(weight * item.gain for weight, item, _ in points)
    errors = [weight * item.standard_error for weight, item, _ in points]
    clusters = [item.clusters for _, item, _ in points if item.clusters is not None]
    error = sum(errors) if clusters else math.hypot(*errors)
    z = student(z, min(clusters)) if clusters else z
    corrected = gain - selection * error if selection else gain
    return Gain(**known, share=corrected / loss, low=(gain - z * error) / loss)


def windows_between(earlier: Window, later: Window) -> int:
    """Return how many windows of the length of ``later`` lie between the starts of both windows; at least 1."""
    return max(1, windows_after(earlier.start, later))


def windows_after(time: datetime, window: Window) -> int:
    """Return how many windows of the length of ``window`` lie between ``time`` and the start of ``window``.

    The number is rounded, because months differ in length.
    """
    return round((window.start - time) / (window.end - window.start))
