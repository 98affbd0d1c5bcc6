"""Find segments with worse performance, in which the mean loss rose significantly since training.

The test is a one-sided Welch test with two precautions for small samples. First, the test uses the larger of Welch's
and Student's standard errors, because a sample of equal losses has no variance. Second, the test uses the degrees of
freedom of the smaller sample. The p-values of all segments are adjusted together (Benjamini-Hochberg). If rows have
weights, the mean losses and the shares are weighted, and the test counts effective rows (Kish).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.performance.findings import LossChange, MeanLoss, Segment, Shift
from airflow_mlops.performance.thresholds import PerformanceThresholds
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.segments import Cut, Losses, SegmentLosses

MAX_SEGMENTS = 10
"""The largest number of segments in a report."""


class _Sample(NamedTuple):
    """The losses of the rows of a segment.

    :param rows: number of rows
    :param mean: mean loss, weighted if the rows have weights
    :param variance: variance of the losses
    :param independent: effective number of rows with weights (Kish)
    :param mass: sum of the weights
    :param design: design effect of clustered rows
    """

    rows: int
    mean: float
    variance: float
    independent: float
    mass: float
    design: float = 1.0

    @property
    def effective(self) -> float:
        """Return the number of independent rows with equal weights whose mean would have the same variance."""
        return self.independent / self.design

    @property
    def error(self) -> float:
        return math.sqrt(self.variance / self.effective) if self.effective else math.inf

    def interval(self, z: float) -> MeanLoss:
        return MeanLoss(value=self.mean, low=self.mean - z * self.error, high=self.mean + z * self.error)


def compare(
    reference: SegmentLosses,
    current: Mapping[str, Losses],
    metric: str,
    thresholds: PerformanceThresholds,
    designs: Mapping[str, Sequence[float]] | None = None,
) -> tuple[LossChange, list[Segment]] | None:
    """Compare the segments of a window with the same segments of the held-out split part at training.

    :param reference: losses of each segment of the held-out split part at training
    :param current: losses of the same segments in the window, by feature
    :param metric: name of the metric that determines the loss
    :param thresholds: ``tolerance``, ``min_rows``, ``confidence`` and ``false_alarm_rate`` are used here
    :param designs: the design effect of each segment of the window, by feature, if rows are clustered. The segments at
        training are assumed to have the same design effects
    :return: the change of the mean loss of all rows, and at most :data:`MAX_SEGMENTS` segments with worse performance;
        ``None`` if there is nothing to compare. The segments are ordered by how much they contribute beyond their share
        of the rows (the contribution, minus the share times the change of the mean loss of all rows), the largest first
    """
    then = reference.losses.get(metric, {})
    # A feature has no losses at training if they were not finite.
    features = [
        name for name, found in current.items() if name in then and sum(found.rows) > 0 and sum(then[name].rows) > 0
    ]
    if not features:
        return None
    value, before = _mean(current[features[0]]), _mean(then[features[0]])
    tested = [
        (name, *pair)
        for name in features
        for pair in _pairs(
            reference.cuts[name],
            then[name],
            current[name],
            thresholds.min_rows,
            None if designs is None else designs[name],
        )
    ]
    p_values = [1.0 if _tolerated(old, new, metric, thresholds) else _p_value(old, new) for _, _, old, new in tested]
    z = NormalDist().inv_cdf(0.5 + thresholds.confidence / 2)
    fallen = []
    for (name, rows, old, new), p_value in zip(tested, significance.adjusted(p_values), strict=True):
        if p_value > thresholds.false_alarm_rate:
            continue
        share = new.mass / sum(current[name].mass)
        fallen.append(
            Segment(
                name=f"{name} {rows}",
                feature=name,
                rows=new.rows,
                share=share,
                share_reference=old.mass / sum(then[name].mass),
                loss=new.interval(z),
                reference=old.interval(z),
                contribution=share * (new.mean - old.mean),
                adjusted_p_value=p_value,
            )
        )
    fallen.sort(key=lambda found: found.share * (value - before) - found.contribution)
    change = LossChange(
        metric=metric,
        reference=before,
        value=value,
        tested=len(tested),
        fallen=len(fallen),
        false_alarm_rate=thresholds.false_alarm_rate,
        min_rise=thresholds.tolerance,
        shifts=sorted(
            (_shift(name, then[name], current[name]) for name in features), key=lambda found: -abs(found.mix)
        ),
    )
    return change, fallen[:MAX_SEGMENTS]


def _pairs(
    cut: Cut, then: Losses, now: Losses, min_rows: int, designs: Sequence[float] | None
) -> Iterator[tuple[str, _Sample, _Sample]]:
    """Yield the name and both samples of each segment with enough rows at training and in the window.

    Segments that contain all rows, and segments with fewer than two effective rows, are left out.
    """
    totals = sum(then.rows), sum(now.rows)
    for index, rows in enumerate(cut.names):
        design = 1.0 if designs is None else designs[index]
        old, new = (_sample(part, index, design) for part in (then, now))
        if min(old.effective, new.effective) < 2:
            continue
        if min(old.rows, new.rows) >= max(2, min_rows) and (old.rows, new.rows) != totals:
            yield rows, old, new


def _sample(losses: Losses, index: int, design: float) -> _Sample:
    return _Sample(
        losses.rows[index],
        losses.mean[index],
        losses.variance[index],
        losses.independent[index],
        losses.mass[index],
        design,
    )


def _tolerated(old: _Sample, new: _Sample, metric: str, thresholds: PerformanceThresholds) -> bool:
    return new.mean - old.mean <= thresholds.tolerance * (1 if find_metric(metric).higher_is_better else old.mean)


def _p_value(old: _Sample, new: _Sample) -> float:
    # scipy.stats takes 45 MB of memory, and half a second to import.
    from scipy import special

    before, now, rise = old.effective, new.effective, new.mean - old.mean
    rows = before + now
    squares = (before - 1) * old.variance + (now - 1) * new.variance + rise**2 * before * now / rows
    student = squares / (rows - 1) * (1 / before + 1 / now)
    error = math.sqrt(max(student, old.error**2 + new.error**2))
    return float(special.stdtr(min(before, now) - 1, -rise / error)) if error else 1.0


def _shift(name: str, then: Losses, now: Losses) -> Shift:
    """Decompose the change of the mean loss by the segments of the feature ``name``.

    Source of the method: E. Kitagawa, "Components of a Difference Between Two Rates", Journal of the American
    Statistical Association 50, 1955.
    """
    now_mass, then_mass, before = sum(now.mass), sum(then.mass), _mean(then)
    mix = rate = 0.0
    for index in range(len(now.rows)):
        share, share_then = now.mass[index] / now_mass, then.mass[index] / then_mass
        # For a segment without rows at training, the mean loss of all rows is used.
        mean_then = then.mean[index] if then.rows[index] else before
        mix += (share - share_then) * mean_then
        rate += share * (now.mean[index] - mean_then)
    return Shift(feature=name, mix=mix, rate=rate)


def _mean(losses: Losses) -> float:
    return sum(mass * mean for mass, mean in zip(losses.mass, losses.mean, strict=True)) / sum(losses.mass)
