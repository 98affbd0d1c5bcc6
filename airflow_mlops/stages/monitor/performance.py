"""Measure realised performance with labels, and estimate performance from the scores without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.counts import counted
from airflow_mlops.core.errors import SpecError
from airflow_mlops.core.numbers import percent
from airflow_mlops.data.columns import LABEL
from airflow_mlops.drift.training_reference import TrainingReference
from airflow_mlops.metrics import realised as metrics
from airflow_mlops.metrics.catalog import (
    COVERAGE,
    ESTIMATED,
    REALISED,
    is_custom,
    is_expected_cost,
    is_quantile,
    is_ranking,
    predicted_quantile,
)
from airflow_mlops.metrics.catalog import realised as realised_metrics
from airflow_mlops.metrics.clusters import Design
from airflow_mlops.metrics.intervals import Interval
from airflow_mlops.metrics.judged import default_metric, has_other_unit
from airflow_mlops.performance import at_training, estimation
from airflow_mlops.performance.bias import bias
from airflow_mlops.performance.findings import Bias, IntervalCoverage, Performance
from airflow_mlops.performance.levels import best_recent
from airflow_mlops.policy.checks import immature_labels, judged_performance, outside_estimate
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.wording import metric_name, number, only
from airflow_mlops.profiles.calibration import Calibration, Floats, LossModel
from airflow_mlops.profiles.profile import ModelProfile, WeightedPerformance
from airflow_mlops.profiles.training import BIAS
from airflow_mlops.stages.monitor import clusters, labelled, metric_columns
from airflow_mlops.stages.monitor import weights as row_weights
from airflow_mlops.stages.monitor.check import Check
from airflow_mlops.stages.monitor.labelled import LabelledRows
from airflow_mlops.stages.monitor.weights import Weights


@dataclass(frozen=True)
class Realised:
    """Performance measured on predictions whose labels have arrived.

    :param labelled: number of predictions with a label
    :param coverage: share of the predictions that have a label
    :param performance: the metric with a confidence interval; ``None`` if the metric was not measured
    :param unmeasured: why performance was not measured or cannot be judged; ``None`` if performance can be judged
    :param bias: mean error of the predictions; ``None`` if it was not measured
    :param interval: coverage of the prediction intervals; ``None`` if it was not measured
    :param immature: why the labels are incomplete (too few so far, or more may still arrive); ``None`` if the labels
        are complete
    :param notes: further remarks, one sentence each
    :param design: how much clusters widen the interval of the metric; ``None`` for independent rows
    :param weights: the weights of the measured rows
    """

    labelled: int = 0
    coverage: float | None = None
    performance: Performance | None = None
    unmeasured: str | None = None
    bias: Bias | None = None
    interval: IntervalCoverage | None = None
    immature: str | None = None
    notes: list[str] = field(default_factory=list)
    design: Design | None = None
    weights: Weights = field(default_factory=Weights)

    @property
    def judged(self) -> Performance | None:
        """Return realised performance; ``None`` if performance cannot be judged."""
        return self.performance if self.unmeasured is None else None


@dataclass(frozen=True)
class Estimated:
    """Performance estimated from the scores without labels.

    :param performance: the estimate; ``None`` if performance was not estimated
    :param notes: why there is no estimate, or a comparison of the estimate with realised performance, one sentence each
    """

    performance: Performance | None = None
    notes: list[str] = field(default_factory=list)


def realised(check: Check, reference: TrainingReference) -> Realised:
    """Measure realised performance, and check whether there are enough labels to judge performance.

    :param reference: the training reference of the version that made the predictions
    :raises SpecError: the metric of the policy cannot be measured for the ML task of the model
    """
    contract = reference.contract
    policy, metric = check.policy, _metric(check.policy, contract)
    young = immature_labels(policy, check.window, check.created)
    without = young or _too_few(0, 0.0, policy)
    if not check.has_columns(LABEL):
        return Realised(unmeasured="no labels were joined to the predictions", immature=without)
    try:
        weights = row_weights.read(check, reference)
    except metrics.UnmeasurableError as error:
        return Realised(unmeasured=str(error), immature=without)
    try:
        columns, missing = metric_columns.require(check, contract, metric), None
    except metrics.UnmeasurableError as error:
        # The metric is not measured then. Bias and coverage of intervals do not need the columns, so they are still
        # measured.
        columns, missing = [], str(error)
    with ExitStack() as stack:
        try:
            rows = stack.enter_context(labelled.opened(check, contract, metric, weights, columns))
        except metrics.UnmeasurableError as error:
            return Realised(unmeasured=str(error), immature=without)
        return _of_rows(rows, check, reference, metric, weights, missing)


def _of_rows(
    rows: LabelledRows[metrics.Outcomes | metrics.Spooled],
    check: Check,
    reference: TrainingReference,
    metric: str,
    weights: Weights,
    missing: str | None,
) -> Realised:
    """Measure realised performance on the labelled rows.

    :param missing: why the metric cannot be measured without a column that it names; ``None`` if it can
    """
    policy, contract, outcomes = check.policy, reference.contract, rows.outcomes
    young = immature_labels(policy, check.window, check.created)
    labelled, skipped = rows.labelled, outcomes.skipped
    coverage = labelled / check.rows
    notes = [*_remarks(outcomes), *weights.notes]
    if weights.refused is not None:
        immature = young or _too_few(labelled, coverage, policy)
        return Realised(labelled, coverage, unmeasured=weights.refused, immature=immature, notes=notes, weights=weights)
    alpha = predicted_quantile(contract.task, contract.metrics)
    if alpha is not None and outcomes.rows:
        covered = metrics.quantile_coverage(outcomes, policy.confidence).value
        notes.append(f"{covered:.1%} of the labels are at most the prediction, which is the {alpha:.10g} quantile.")
    reason = missing or young or _too_few(outcomes.rows, coverage, policy, skipped)
    trained = _at_training(reference, weights.column).intervals.get(BIAS)
    measured = _measured(policy, metric, outcomes, reference, weights.column)
    notes += measured.notes
    reason = reason or measured.unmeasured
    return Realised(
        labelled=labelled,
        coverage=coverage,
        performance=measured.performance,
        unmeasured=reason,
        # Bias is not measured for a model that predicts a quantile, because the mean error of such a model is not 0.
        bias=bias(outcomes, contract.task, policy, trained.value if trained is not None else None)
        if alpha is None
        else None,
        interval=_interval(outcomes, reference, policy),
        immature=young or _too_few(labelled, coverage, policy),
        notes=notes,
        design=measured.design,
        weights=weights,
    )


def _remarks(outcomes: metrics.Outcomes | metrics.Spooled) -> list[str]:
    """Return remarks on labelled rows that are not measured, or that count as errors."""
    notes = []
    if outcomes.skipped:
        rows = counted(outcomes.skipped, "labelled row")
        notes.append(f"Performance excludes {rows}, because the label or the score is not a finite number.")
    if outcomes.unknown:
        rows = counted(outcomes.unknown, "row")
        notes.append(
            f"Labels that are not a class of the model, such as {outcomes.example!r}, count as errors of the model ({rows})."
        )
    return notes


def _measured(
    policy: Policy, metric: str, outcomes: metrics.Labelled, reference: TrainingReference, weight: str | None
) -> Realised:
    """Measure the metric of the policy, and compare it with its value at training.

    :param weight: the column of row weights; ``None`` without weights
    :return: performance, its design effect, notes, and why the metric cannot be judged
    """
    try:
        estimate = metrics.measure(metric, outcomes, policy.confidence, reference.contract.task)
    except metrics.UnmeasurableError as error:
        return Realised(unmeasured=str(error))
    # Clusters are assumed to have the same design effect on held-out rows. The interval at training ignores
    # clusters, so it is widened by the same factor.
    known = None if is_custom(metric) else metrics.clustered(metric, outcomes)
    performance = _performance(policy, metric, estimate, reference, outcomes.rows, known, weight)
    reason, notes = None, []
    if performance.reference is None:
        if policy.min is None and policy.max is None:
            reason = f"{metric} was not measured at training"
    elif performance.reference_low is None:
        notes.append(
            f"The {metric_name(metric)} at training is treated as exact, because its interval is not stored with model "
            f"{reference.version}."
        )
    return Realised(performance=performance, unmeasured=reason, notes=notes, design=known)


def _interval(outcomes: metrics.Labelled, reference: TrainingReference, policy: Policy) -> IntervalCoverage | None:
    """Measure the coverage of the prediction intervals, and compare it with the coverage at training.

    The coverage is the share of the labels that lie in their prediction interval.

    :return: ``None`` if the model has no intervals, or if the coverage cannot be measured
    """
    rule = reference.contract.interval
    if rule is None:
        return None
    try:
        estimate = metrics.measure(COVERAGE, outcomes, policy.confidence, reference.contract.task)
    except metrics.UnmeasurableError:
        return None
    # A model with prediction intervals was trained without row weights, so its coverage is measured without them.
    known = metrics.clustered(COVERAGE, outcomes)
    found = dict(_performance(policy, COVERAGE, estimate, reference, outcomes.rows, known))
    # `greater_is_better` belongs to the policy's own metric. Without a value at training, the nominal coverage is used.
    found |= {
        "greater_is_better": None,
        "reference": rule.coverage if found["reference"] is None else found["reference"],
    }
    return IntervalCoverage(**found, nominal=rule.coverage)


def with_recent(realised: Realised, check: Check, earlier: Sequence[Findings]) -> Realised:
    """Add the best level that a recent champion reached in its windows, if the policy sets ``best_recent``.

    :param earlier: findings of earlier windows, ordered by time
    """
    period, current = check.policy.best_recent, realised.performance
    if period is None or current is None:
        return realised
    windows: dict[int, list[Performance]] = {}
    for item in earlier:
        judged, version = judged_performance(item), item.scored_by
        inside = check.window.start - period <= item.window.start and item.window.end <= check.window.start
        if inside and judged is not None and version is not None:
            windows.setdefault(version.version, []).append(judged)
    recent = best_recent(current, windows, check.policy.confidence)
    return replace(realised, performance=current.model_copy(update={"recent": recent}))


def estimated(
    check: Check,
    reference: TrainingReference,
    realised: Realised,
) -> Estimated:
    """Estimate performance from the scores without labels, and compare the estimate with realised performance.

    :param reference: the training reference of the version that made the predictions. Its profile has the relation
        between scores and labels on the held-out split part
    :param realised: realised performance. If it can be judged, the estimate covers the labelled rows only. Without it,
        ``rmse`` is estimated for a model that is judged by a deviance or as a forecast
    :raises SpecError: the metric of the policy cannot be measured for the ML task of the model, or the predictions do
        not have the column ``policy.groups``
    """
    judged = realised.judged
    contract, calibration = reference.contract, reference.profile.calibration
    policy, metric = check.policy, _metric(check.policy, contract)
    labelled = judged is not None
    if realised.performance is None and policy.metric is None and has_other_unit(contract) and not is_ranking(metric):
        # Deviances and the metrics of forecasts need labels. A report shows realised and estimated performance by one
        # metric, so another metric is estimated only if there is no realised performance.
        metric = REALISED[contract.task][0]
    if judged is not None and judged.weight is not None:
        why = f"realised performance is weighted by column {judged.weight!r}, and estimates do not support row weights"
        return Estimated(None, [f"Performance was not estimated from the scores, because {why}."])
    columns = ["score", LABEL] if labelled else ["score"]
    batches = check.batches(columns)
    try:
        if metric not in ESTIMATED and not is_expected_cost(metric):
            others = ", ".join(name for name in REALISED[contract.task] if name in ESTIMATED)
            # No other metric is suggested for a quantile metric, because the others are for predictions of the mean.
            instead = "" if is_quantile(metric) else f"; {others} can be estimated from the scores"
            raise metrics.UnmeasurableError(f"{metric} needs labels{instead}")
        if calibration is None:
            raise metrics.UnmeasurableError("the profile of the version has no calibration of its scores")
        scores = estimation.collect(metrics.scores(batches, labelled=labelled), calibration)
        scores = replace(scores, shift=_shift(check, calibration, labelled))
        if scores.total < policy.min_rows:
            raise metrics.UnmeasurableError(f"there {only(scores.total, 'score')} ({policy.min_rows:,} needed)")
        threshold = contract.threshold if contract.task == "binary" else None
        estimate = estimation.estimate(metric, scores, calibration, policy.confidence, threshold)
        # Without labels, the correlation of the errors in a cluster is unknown. It is assumed to be 1.
        known = realised.design if labelled else clusters.of_scores(check)
        if known is not None:
            estimate = metrics.widened(metric, estimate, known, policy.confidence)
    except metrics.UnmeasurableError as error:
        return Estimated(None, [f"Performance was not estimated from the scores, because {error}."])
    performance = _performance(policy, metric, estimate, reference, scores.total, known)
    if judged is None:
        return Estimated(performance, _estimated_unweighted(contract))
    interval = f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"
    outside = outside_estimate(judged, performance)
    where = (
        "outside this interval, so the relation between scores and labels differs from training"
        if outside
        else "inside this interval"
    )
    return Estimated(
        performance,
        [f"The estimate of {metric_name(metric)} from the scores is {interval}; the realised value lies {where}."],
    )


def _shift(check: Check, calibration: Calibration, labelled: bool) -> Floats | None:
    """Return how far the inputs of a regression model have drifted from the held-out rows; ``None`` if unknown.

    :param labelled: whether to leave out rows without a label
    """
    if not isinstance(calibration, LossModel) or calibration.inputs is None:
        return None
    names = calibration.inputs.features
    if not check.has_columns(*names):
        return None
    rows = check.batches(list(dict.fromkeys([*names, "score", LABEL] if labelled else [*names, "score"])))
    return calibration.inputs.shift(metrics.scored(rows, labelled=labelled))


def _metric(policy: Policy, contract: ModelContract) -> str:
    metric = policy.metric or default_metric(contract, logged=True)
    bound = next((name for name in ("min", "max") if getattr(policy, name) is not None), None)
    if policy.metric is None and bound is not None and has_other_unit(contract):
        raise SpecError(
            f"The policy sets `{bound}` without a metric, and this model is judged by {metric} instead of {REALISED[contract.task][0]}. "
            f"Set `metric` of the policy to the metric whose unit `{bound}` has."
        )
    if not is_custom(metric) and (wrong := policy.wrong_bound(metric)) is not None:
        raise SpecError(f"The policy does not fit the metric of this model: {wrong}.")
    if is_custom(metric):
        return metric
    if not realised_metrics(contract.task, [metric]):
        raise SpecError(
            f"policy.metric={metric!r} cannot be measured on predictions of a {contract.task} model. "
            f"Set it to one of {', '.join(REALISED[contract.task])}."
        )
    return metric


def _too_few(labels: int, coverage: float, policy: Policy, skipped: int = 0) -> str | None:
    """Return a clause that explains why there are too few labels to judge performance; ``None`` if there are enough.

    :param labels: number of labels
    :param skipped: number of labelled rows that are not among ``labels``, because they cannot be measured
    """
    if skipped and labels < policy.min_labels:
        those = f"only {labels:,}" if labels else "none"
        return (
            f"{those} of {counted(labels + skipped, 'labelled row')} {'has' if labels < 2 else 'have'} a finite label and "
            f"a finite score ({policy.min_labels:,} needed)"
        )
    if not labels:
        return "there are no labels"
    if labels < policy.min_labels:
        return f"there {only(labels, 'label')} ({policy.min_labels:,} needed)"
    if coverage < policy.min_coverage:
        return f"only {percent(coverage)} of the predictions have a label ({policy.min_coverage:.0%} needed)"
    return None


def _estimated_unweighted(contract: ModelContract) -> list[str]:
    """Return a list with the note that estimates ignore row weights; empty if the model was trained without them."""
    if contract.sample_weight is None:
        return []
    sentence = (
        "Estimated performance counts each row once, in production and at training, without the weights in column "
        f"{contract.sample_weight!r} (sample_weight)."
    )
    return [sentence]


def _at_training(reference: TrainingReference, weight: str | None) -> ModelProfile | WeightedPerformance:
    """Return the performance on the held-out rows at training, with the weights of the rows or without them.

    :param weight: column with the weights; ``None`` if each row counts once
    """
    known = reference.profile
    return known if weight is None or known.weighted is None else known.weighted


def _value_at_training(metric: str, reference: TrainingReference, weight: str | None) -> float | None:
    contract = reference.contract
    if contract.sample_weight == weight:
        return contract.metrics.get(metric)
    # The contract contains the weighted metrics, so the value without weights comes from the profile.
    known = reference.profile.intervals.get(metric)
    return known.value if known is not None else None


def _performance(
    policy: Policy,
    metric: str,
    estimate: Interval,
    reference: TrainingReference,
    rows: int,
    known: Design | None,
    weight: str | None = None,
) -> Performance:
    wider = 1.0 if known is None else math.sqrt(known.effect)
    value, then = _value_at_training(metric, reference, weight), _at_training(reference, weight)
    trained = at_training.interval(metric, value, then, policy.confidence) if value is not None else None
    trained = metrics.stretched(metric, trained, wider) if trained is not None else None
    return Performance(
        metric=metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=value,
        reference_low=trained.low if trained is not None else None,
        reference_high=trained.high if trained is not None else None,
        compared=reference.compared,
        labels=rows,
        greater_is_better=policy.greater_is_better,
        weight=weight,
    )
