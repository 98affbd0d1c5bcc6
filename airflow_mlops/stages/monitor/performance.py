"""What monitoring finds out about a window's performance: realised, from the labels, and estimated, without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow_mlops.core.contract import ModelContract
from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.columns import LABEL, LABEL_AT
from airflow_mlops.data.datasets import Dataset
from airflow_mlops.metrics import realised as performance
from airflow_mlops.metrics.catalog import REALISED, is_custom
from airflow_mlops.performance import estimation
from airflow_mlops.performance.findings import Performance
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.judgement import immature, unforeseen
from airflow_mlops.policy.reasons import there_are
from airflow_mlops.policy.spec import Policy
from airflow_mlops.profiles.calibration import LossModel, ProbabilityCalibration
from airflow_mlops.profiles.delays import label_delay
from airflow_mlops.profiles.spec import LabelDelay


def realised(datasets: Sequence[Dataset], contract: ModelContract, found: Findings) -> dict[str, Any]:
    """The metric on the labels that have come, and whether they are ground enough to judge it."""
    policy, metric = found.policy, _metric(found.policy, contract)
    if not all(LABEL in (column.name for column in dataset.manifest.columns) for dataset in datasets):
        return {"unmeasured": "no labels were joined to the predictions"}
    batches = (batch for dataset in datasets for batch in dataset.batches(columns=performance.COLUMNS))
    try:
        outcomes = performance.outcomes(batches, contract)
    except performance.UnmeasurableError as error:
        return {"unmeasured": str(error)}
    labelled = outcomes.rows + outcomes.skipped
    coverage = labelled / found.rows
    known: dict[str, Any] = {"labelled": labelled, "coverage": coverage}
    if outcomes.skipped:
        left_out = f"{outcomes.skipped:,} labelled rows were left out: label or score is not a finite number."
        known["notes"] = [*found.notes, left_out]
    try:
        estimate = performance.measure(metric, outcomes, policy.confidence, contract.task)
    except performance.UnmeasurableError as error:
        return {**known, "unmeasured": immature(found) or _too_little(outcomes.rows, coverage, policy) or str(error)}
    without = f"{metric} was not measured at training" if metric not in contract.metrics else None
    return {
        **known,
        "unmeasured": immature(found) or _too_little(outcomes.rows, coverage, policy) or without,
        "performance": _performance(policy, metric, estimate, contract, outcomes.rows),
    }


def delay(datasets: Sequence[Dataset]) -> LabelDelay | None:
    """How late the labels came, where the time of their coming is known."""
    event_time = str(datasets[-1].manifest.details.get("timestamp"))
    wanted = [LABEL_AT, event_time]
    if not all({*wanted} <= {column.name for column in dataset.manifest.columns} for dataset in datasets):
        return None
    return label_delay((batch for dataset in datasets for batch in dataset.batches(columns=wanted)), event_time)


def estimated(
    datasets: Sequence[Dataset],
    contract: ModelContract,
    calibration: ProbabilityCalibration | LossModel | None,
    found: Findings,
) -> dict[str, Any]:
    """What the metric should be, from the scores alone, and how that fits the labels where they are known."""
    policy, metric = found.policy, _metric(found.policy, contract)
    judged = found.performance is not None and found.unmeasured is None
    columns = ["score", LABEL] if judged else ["score"]
    batches = (batch for dataset in datasets for batch in dataset.batches(columns=columns))
    try:
        if is_custom(metric):
            raise performance.UnmeasurableError(f"{metric} is not a built-in metric, so it needs labels")
        if calibration is None:
            raise performance.UnmeasurableError("the version's profile does not say what its scores mean")
        scores = estimation.collect(performance.scores(batches, labelled=judged), calibration)
        if scores.total < policy.min_rows:
            raise performance.UnmeasurableError(f"{there_are(scores.total, 'score')}, {policy.min_rows:,} are needed")
        threshold = contract.threshold if contract.task == "binary" else None
        estimate = estimation.estimate(metric, scores, calibration, policy.confidence, threshold)
    except performance.UnmeasurableError as error:
        return {"notes": [*found.notes, f"Performance was not estimated from the scores alone: {error}."]}
    estimated = _performance(policy, metric, estimate, contract, scores.total)
    outside = unforeseen(found.model_copy(update={"estimated": estimated}))
    if outside is None:
        return {"estimated": estimated}
    where = "outside: the scores no longer mean what they meant at training" if outside else "inside"
    interval = f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
    checked = f"From the scores alone {metric} was estimated at {interval}; the realised value lies {where}."
    return {"estimated": estimated, "notes": [*found.notes, checked]}


def unripe(found: Findings) -> str | None:
    """Why the labels that have come are no ground for a judgement, in one clause; ``None`` if they are."""
    return immature(found) or _too_little(found.labelled, found.coverage or 0.0, found.policy)


def _metric(policy: Policy, contract: ModelContract) -> str:
    # A classifier that gives labels alone has no roc_auc to compare with, but accuracy.
    measured = [name for name in REALISED[contract.task] if name in contract.metrics]
    metric = policy.metric or (measured or REALISED[contract.task])[0]
    if is_custom(metric):
        return metric
    if metric not in REALISED[contract.task]:
        raise SpecError(
            f"policy.metric={metric!r} cannot be measured on predictions of a {contract.task} model: "
            f"use one of {', '.join(REALISED[contract.task])}."
        )
    return metric


def _too_little(labels: int, coverage: float, policy: Policy) -> str | None:
    """Why the labels are no ground for a judgement, if so."""
    if not labels:
        return "there are no labels"
    if labels < policy.min_labels:
        return f"{there_are(labels, 'label')}, {policy.min_labels:,} are needed"
    if coverage < policy.min_coverage:
        return f"{coverage:.1%} of the predictions have a label, {policy.min_coverage:.0%} are needed"
    return None


def _performance(
    policy: Policy, metric: str, estimate: performance.Interval, contract: ModelContract, rows: int
) -> Performance:
    return Performance(
        metric=metric,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=contract.metrics.get(metric),
        labels=rows,
        greater_is_better=policy.greater_is_better,
    )
