"""Observations about differences in treatment between groups of rows."""

from __future__ import annotations

from airflow_mlops.performance.difference import difference
from airflow_mlops.performance.findings import FairnessDifference, GroupRate
from airflow_mlops.policy.checks import is_less_fair, is_replaced
from airflow_mlops.policy.details.observation import Observation
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.wording import fitting, name, number, share


def unfair_differences(findings: Findings) -> list[Observation]:
    """Return an observation for each difference that is significantly above its limit, or has risen significantly.

    Differences of a version that is no longer the champion are left out.
    """
    if is_replaced(findings):
        return []
    return [
        _observation(item, findings)
        for item in findings.fairness
        if item.is_significant or is_less_fair(item, findings.policy)
    ]


def _observation(found: FairnessDifference, findings: Findings) -> Observation:
    what, policy = f"{found.difference} difference", findings.policy
    if found.is_significant or found.reference is None:
        happened = f"is {number(found.value)} (limit {number(found.limit)})"
    else:
        happened = f"rose to {number(found.value)} ({number(found.reference)} before)"
    headline = fitting(f"The {what} over {name(found.sensitive)} {happened}", f"The {what} {happened}")
    facts = [f"{share(policy.confidence, 0)} interval {number(found.low)} to {number(found.high)}"]
    facts.append(f"limit {number(found.limit)}")
    change = difference(found, policy.confidence)
    if found.reference is not None and change is not None:
        many = f", corrected for {found.compared} compared models" if found.compared > 1 else ""
        rise = f"rise {number(change.low)} to {number(change.high)}{many}"
        facts.append(f"{number(found.reference)} in the evaluation, {rise}")
    groups = f"{found.of} {_group(found.least)}, {_group(found.most)}"
    where = f"The {what} over {name(found.sensitive)}"
    return Observation(headline, [f"{where} is {number(found.value)} ({', '.join(facts)}): {groups}."])


def _group(found: GroupRate) -> str:
    return f"{share(found.rate, 1)} where {found.name} ({found.rows:,} rows)"
