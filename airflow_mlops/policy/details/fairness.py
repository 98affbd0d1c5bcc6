"""Observations about differences in treatment between groups of rows."""

from __future__ import annotations

from airflow_mlops.performance.findings import FairnessDifference, GroupRate
from airflow_mlops.policy.checks import is_replaced
from airflow_mlops.policy.details.observation import Observation
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.wording import fitting, name, number, share


def unfair_differences(findings: Findings) -> list[Observation]:
    """Return an observation for each difference that is significantly above its limit.

    Differences of a version that is no longer the champion are left out.
    """
    if is_replaced(findings):
        return []
    return [_observation(item, findings) for item in findings.fairness if item.is_significant]


def _observation(found: FairnessDifference, findings: Findings) -> Observation:
    what = f"{found.difference} difference"
    limit = f"{number(found.value)} (limit {number(found.limit)})"
    headline = fitting(f"The {what} over {name(found.sensitive)} is {limit}", f"The {what} is {limit}")
    interval = f"{share(findings.policy.confidence, 0)} interval {number(found.low)} to {number(found.high)}"
    groups = f"{found.of} {_group(found.least)}, {_group(found.most)}"
    limits = f"{interval}, limit {number(found.limit)}"
    return Observation(
        headline, [f"The {what} over {name(found.sensitive)} is {number(found.value)} ({limits}): {groups}."]
    )


def _group(found: GroupRate) -> str:
    return f"{share(found.rate, 1)} where {found.name} ({found.rows:,} rows)"
