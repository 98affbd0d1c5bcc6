"""Observations that a person should look at."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_mlops.policy.checks import (
    accepted_estimate,
    attributions_matter,
    is_worse,
    scores_do_not_follow,
    why_drift_matters,
)
from airflow_mlops.policy.details.drift import attribution_drift, few_rows, harmful_drift, labels_not_followed
from airflow_mlops.policy.details.fairness import unfair_differences
from airflow_mlops.policy.details.inputs import (
    broken_features,
    broken_others,
    infinite_values,
    quarantined_rows,
    staleness,
)
from airflow_mlops.policy.details.observation import Observation, stated
from airflow_mlops.policy.details.performance import (
    change_of,
    fell,
    few_large_errors,
    levels_of,
    narrow_intervals,
    unjudged_performance,
)
from airflow_mlops.policy.details.versions import replaced_version
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.wording import metric_name, name


def observations(
    findings: Findings, inputs_reported: bool = False, earlier: Sequence[Findings] = ()
) -> list[Observation]:
    """Return the observations that a person should look at, most urgent first.

    :param inputs_reported: whether the verdict already names the broken inputs; if so, broken inputs are left out here
    :param earlier: findings of earlier windows, ordered by time
    """
    if not findings.rows:
        return [stated(f"No predictions in {name(findings.window.label)}")]
    matters = why_drift_matters(findings, earlier)
    return [
        *quarantined_rows(findings),
        *([] if inputs_reported else broken_features(findings)),
        *broken_others(findings),
        *few_large_errors(findings),
        *narrow_intervals(findings),
        *unfair_differences(findings),
        *_worse_estimate(findings),
        *infinite_values(findings),
        *staleness(findings),
        *(harmful_drift(findings, inputs_reported, matters) if matters is not None else []),
        *(attribution_drift(findings) if attributions_matter(findings) else []),
        *([labels_not_followed(findings)] if scores_do_not_follow(findings) else []),
        *([] if accepted_estimate(findings) is not None else unjudged_performance(findings)),
        *few_rows(findings),
    ]


def _worse_estimate(findings: Findings) -> list[Observation]:
    estimated, policy = findings.estimated, findings.policy
    if findings.unmeasured is None or estimated is None or not is_worse(estimated, policy):
        return []
    if (replaced := replaced_version(findings, estimated=True)) is not None:
        return [replaced]
    levels = levels_of(estimated, policy, "Estimated")
    if "estimated_performance" in policy.retrain_on:
        return [Observation(change_of(estimated, policy, estimated=True), levels)]
    labels_decide = "performance" in policy.retrain_on
    consequence = "retraining waits for labels" if labels_decide else "an estimate requests no retraining"
    headline = f"Estimated {metric_name(estimated.metric)} {fell(estimated, policy)}; {consequence}"
    why = (
        "The estimate uses the scores and no labels. It does not request retraining, because retrain_on does not "
        "contain 'estimated_performance'."
    )
    wait = " Retraining waits for labels." if labels_decide else ""
    return [Observation(headline, [*levels, f"{why}{wait}"])]
