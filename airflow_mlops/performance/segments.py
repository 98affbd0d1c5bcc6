"""Where performance fell: segments of a window whose mean loss is above that of training by more than chance.

The test of a segment is Welch's, one-sided, with two precautions where there are few rows: the larger one of Welch's and
Student's standard error (losses that happen to be all alike in one sample do not make it sure), and the degrees of
freedom of the smaller sample. All segments are corrected for together (Benjamini-Hochberg).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import NamedTuple

from airflow_mlops.metrics.catalog import METRICS
from airflow_mlops.performance.findings import LossChange, MeanLoss, Segment, Shift
from airflow_mlops.performance.thresholds import PerformanceThresholds
from airflow_mlops.profiles import significance
from airflow_mlops.profiles.segments import Cut, Losses, SegmentLosses

SHOWN = 10


class _Sample(NamedTuple):
    rows: int
    mean: float
    variance: float

    @property
    def error(self) -> float:
        return math.sqrt(self.variance / self.rows)

    def interval(self, z: float) -> MeanLoss:
        return MeanLoss(value=self.mean, low=self.mean - z * self.error, high=self.mean + z * self.error)


def compare(
    reference: SegmentLosses, current: Mapping[str, Losses], metric: str, thresholds: PerformanceThresholds
) -> tuple[LossChange, list[Segment]] | None:
    """Compare a window's segments with those of the held-out part at training.

    :param current: by feature, cut as ``reference`` is
    :param metric: the loss that ``current`` is of
    :return: how the loss of all rows has changed, and the segments that have fallen, those first that add most to a
        rise beyond their share of the rows, at most :data:`SHOWN`; ``None`` if there is nothing to compare
    """
    then = reference.losses.get(metric, {})
    features = [name for name, found in current.items() if sum(found.rows) and sum(then[name].rows)] if then else []
    if not features:
        return None
    value, before = _mean(current[features[0]]), _mean(then[features[0]])
    tested = [
        (name, *pair)
        for name in features
        for pair in _pairs(reference.cuts[name], then[name], current[name], thresholds.min_rows)
    ]
    floored = [1.0 if _below_floor(old, new, metric, thresholds) else _p_value(old, new) for _, _, old, new in tested]
    z = NormalDist().inv_cdf(0.5 + thresholds.confidence / 2)
    fallen = []
    for (name, words, old, new), p_value in zip(tested, significance.adjusted(floored), strict=True):
        if p_value > thresholds.false_alarm_rate:
            continue
        share = new.rows / sum(current[name].rows)
        fallen.append(
            Segment(
                name=f"{name} {words}",
                feature=name,
                rows=new.rows,
                share=share,
                share_reference=old.rows / sum(then[name].rows),
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
    return change, fallen[:SHOWN]


def _pairs(cut: Cut, then: Losses, now: Losses, least: int) -> Iterator[tuple[str, _Sample, _Sample]]:
    """The segments with rows enough, then and now; not one that is all rows."""
    every = sum(then.rows), sum(now.rows)
    for index, words in enumerate(cut.names):
        old, new = (_Sample(of.rows[index], of.mean[index], of.variance[index]) for of in (then, now))
        if min(old.rows, new.rows) >= max(2, least) and (old.rows, new.rows) != every:
            yield words, old, new


def _below_floor(old: _Sample, new: _Sample, metric: str, thresholds: PerformanceThresholds) -> bool:
    return new.mean - old.mean <= thresholds.tolerance * (1 if METRICS[metric].higher_is_better else old.mean)


def _p_value(old: _Sample, new: _Sample) -> float:
    from scipy import stats

    rows, apart = old.rows + new.rows, new.mean - old.mean
    squares = (old.rows - 1) * old.variance + (new.rows - 1) * new.variance + apart**2 * old.rows * new.rows / rows
    student = squares / (rows - 1) * (1 / old.rows + 1 / new.rows)
    error = math.sqrt(max(student, old.error**2 + new.error**2))
    return float(stats.t.sf(apart / error, min(old.rows, new.rows) - 1)) if error else 1.0


def _shift(name: str, then: Losses, now: Losses) -> Shift:
    """The two-part decomposition of E. Kitagawa, "Components of a Difference Between Two Rates" (1955)."""
    every, before = (sum(of.rows) for of in (now, then)), _mean(then)
    now_rows, then_rows = every
    mix = rate = 0.0
    for index in range(len(now.rows)):
        share, share_then = now.rows[index] / now_rows, then.rows[index] / then_rows
        # What training never saw costs what its rows cost on average.
        mean_then = then.mean[index] if then.rows[index] else before
        mix += (share - share_then) * mean_then
        rate += share * (now.mean[index] - mean_then)
    return Shift(feature=name, mix=mix, rate=rate)


def _mean(of: Losses) -> float:
    return sum(rows * mean for rows, mean in zip(of.rows, of.mean, strict=True)) / sum(of.rows)
