"""Compare a canary with the champion repeatedly while its share is increased.

A canary that is no worse than the champion must be withdrawn with a probability of at most ``1 - confidence``, over all
comparisons together. Therefore comparison number ``k`` may err with a probability of at most
``(1 - confidence) / (k * (k + 1))``, half of it for performance and half for latency. These probabilities add up to at
most ``1 - confidence``, however many comparisons there are (Bonferroni's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

from airflow_mlops.gates.failures import SHARE, TIMES, Requests, excessive, limit
from airflow_mlops.metrics.catalog import find_metric
from airflow_mlops.metrics.two_groups import Difference, difference
from airflow_mlops.policy.wording import metric_name, number
from airflow_mlops.registry.canary_counts import ShareCounts
from airflow_mlops.registry.records.verdict import GateResult
from airflow_mlops.stages.canary.evidence import Answers

# A canary is too slow if its time for a row is significantly more than twice the time of the champion, and more than
# this many milliseconds longer.
_TIMES_SLOWER, _SLOWER_MS = 2.0, 5.0


@dataclass(frozen=True)
class Comparison:
    """The result of one comparison.

    :param gates: the result of each requirement: performance, and latency and failures if they are known
    :param metrics: the metric of the canary, by name
    :param champion_metrics: the metric of the champion, by name
    :param worse: why the canary is withdrawn, in one sentence; empty if it is not withdrawn
    :param uncertain: why the canary is neither withdrawn nor its share increased, in one sentence; empty otherwise
    """

    gates: list[GateResult]
    metrics: dict[str, float]
    champion_metrics: dict[str, float]
    worse: str = ""
    uncertain: str = ""


def error_of_look(look: int, confidence: float) -> float:
    """Return the largest allowed probability that one requirement of a comparison withdraws a canary that is no worse.

    :param look: number of the comparison, from 1
    """
    return (1 - confidence) / (look * (look + 1)) / 2


def compare(
    canary: Answers, champion: Answers, metric: str, look: int, confidence: float, max_loss: float | None
) -> Comparison | None:
    """Compare a canary with the champion.

    :param canary: labelled predictions of the canary
    :param champion: labelled predictions of the champion
    :param metric: name of the metric to which the field ``losses`` of both belongs
    :param look: number of the comparison, from 1
    :param confidence: confidence of a withdrawal. Over all comparisons, a canary that is no worse than the champion is
        withdrawn with a probability of at most ``1 - confidence``
    :param max_loss: largest accepted loss of the metric; ``None`` to accept a canary that is not significantly worse
    :return: the comparison; ``None`` if no stratum has labelled rows of both versions
    """
    error = error_of_look(look, confidence)
    z = NormalDist().inv_cdf(1 - error)
    measured = difference(canary.losses, champion.losses, z)
    if measured is None:
        return None
    performance, value, before = _performance(metric, measured, error, max_loss)
    gates, worse, uncertain = [performance], "", ""
    if measured.interval.low > (max_loss or 0.0):
        worse = performance.explanation
    elif not performance.passed:
        uncertain = performance.explanation
    slower = difference(canary.latencies, champion.latencies, z)
    if slower is not None:
        latency = _latency(slower, error)
        gates.append(latency)
        worse = worse or ("" if latency.passed else latency.explanation)
    name = "mse" if metric == "rmse" else metric
    return Comparison(gates, {name: value}, {name: before}, worse, uncertain)


def failures(counts: Mapping[float, ShareCounts]) -> GateResult | None:
    """Return the result of the gate on failed requests, see :mod:`airflow_mlops.gates.failures`.

    :param counts: the requests for each share that the canary had
    :return: ``None`` if no requests to the canary were counted
    """
    parts = [Requests(each.canary, each.canary_failed, each.champion, each.champion_failed) for each in counts.values()]
    total, failed, others, others_failed = (sum(column) for column in zip(*parts, strict=True)) if parts else (0,) * 4
    if not total:
        return None
    accepted = limit(parts)
    champion = f"{others_failed:,} of {others:,} ({others_failed / others:.2%})" if others else "none"
    return GateResult(
        gate=f"fails at most {SHARE:.0%} of its requests plus {TIMES:g} times the champion's failure rate",
        measured=failed / total,
        asked=accepted,
        passed=not excessive(parts),
        explanation=f"The canary failed {failed:,} of {total:,} requests ({failed / total:.2%}) and the champion {champion}. "
        f"A failure rate of at most {accepted:.2%} is accepted.",
        rows=total,
    )


def _performance(
    metric: str, found: Difference, error: float, max_loss: float | None
) -> tuple[GateResult, float, float]:
    """Return the gate result for the metric, and the value of the metric for the canary and for the champion."""
    better = find_metric(metric).higher_is_better
    value, before = ((1 - mean if better else mean) for mean in found.means)
    name = "mean squared error" if metric == "rmse" else metric_name(metric)
    interval, accepted = found.interval, max_loss or 0.0
    text = (
        f"{name} is {number(value)} on {found.rows[0]:,} rows of the canary and {number(before)} on {found.rows[1]:,} of the "
        f"champion, a loss of {number(interval.value)} ({number(interval.low)} to {number(interval.high)})"
    )
    if interval.low > accepted:
        passed, why = False, "which is significant" if not accepted else f"which is more than {number(accepted)}"
    elif max_loss is not None and interval.high > accepted:
        passed, why = False, f"so a loss of more than {number(accepted)} is not ruled out"
    else:
        passed, why = True, "which is not significant" if max_loss is None else f"at most {number(accepted)}"
    gate = GateResult(
        gate=f"{name} no worse than the champion" + (f" by more than {number(accepted)}" if accepted else ""),
        measured=value,
        asked=None,
        passed=passed,
        explanation=f"{text[0].upper()}{text[1:]}, {why}.",
        improvement=-interval.value,
        low=-interval.high,
        high=-interval.low,
        confidence=1 - error,
        rows=found.rows[0],
    )
    return gate, value, before


def _latency(found: Difference, error: float) -> GateResult:
    """Return the result of the gate on the time of predictions. It fails if the canary is too slow.

    The geometric means of the time for one row, in milliseconds, are compared.

    :param found: difference between the means of the logarithms of these times, canary minus champion
    :param error: probability of an error, for the confidence in the result
    """
    own, other = (math.exp(mean) for mean in found.means)
    slow = found.interval.low > math.log(_TIMES_SLOWER) and own > other + _SLOWER_MS
    return GateResult(
        gate=f"at most {_TIMES_SLOWER:g} times as slow as the champion",
        measured=own / other,
        asked=_TIMES_SLOWER,
        passed=not slow,
        explanation=f"The canary takes {own:.3g} ms for a row and the champion {other:.3g} ms: {own / other:.3g} times as long (at least "
        f"{math.exp(found.interval.low):.3g} times).",
        confidence=1 - error,
        rows=found.rows[0],
    )
