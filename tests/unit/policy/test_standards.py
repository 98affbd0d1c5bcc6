"""Standards that do not depend on the version: the absolute bound, and the best level of recent champions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_mlops.performance.challenger import Challenger, Comparison
from airflow_mlops.performance.findings import Performance, RecentLevel
from airflow_mlops.policy.checks import is_worse
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.retraining import triggers
from airflow_mlops.policy.spec import Policy
from airflow_mlops.policy.standards import standards
from airflow_mlops.policy.verdict import decide
from airflow_mlops.policy.wording import HEADLINE_LENGTH
from tests.unit.policy.test_policy import UNJUDGED, V1, V2, auc, findings


def rmse(value: float, half: float = 0.5, reference: float | None = 30.0, **fields) -> Performance:
    return auc(value, half, reference, "rmse").model_copy(update=fields)


def compared(rmse: float = 31.2) -> Comparison:
    """A comparison in which no challenger is better."""
    challenger = Challenger(past=None, trained_rows=9_000, value=rmse, gain=0.0, standard_error=1.0)
    return Comparison(champion=V1, metric="rmse", rows=900, value=rmse, loss=rmse**2, challengers=[challenger])


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ({"min": 0.5, "max": 0.9}, "`min` and `max` are both set"),
        ({"metric": "rmse", "min": 1}, "set `max` instead"),
        ({"metric": "roc_auc", "max": 1}, "set `min` instead"),
        ({"metric": "own:cost", "greater_is_better": False, "min": 1}, "set `max` instead"),
        ({"max": float("nan")}, "finite number"),
        ({"best_recent": "0D"}, "longer than zero"),
    ],
)
def test_an_invalid_bound_is_refused(policy, message):
    with pytest.raises(ValidationError, match=message):
        Policy.model_validate(policy)


def test_a_bound_is_broken_if_the_whole_interval_is_beyond_it_although_training_was_no_better():
    # The metric at training was as bad, because the version was promoted in a bad period.
    measured = rmse(31.2, reference=31.0)
    assert decide(findings(performance=measured)).decision == "healthy"
    verdict = decide(findings({"max": 30}, performance=measured))
    assert verdict.decision == "retrain"
    assert verdict.headline == "RMSE is 31.200 (at most 30.000 is allowed)"
    assert any("30.700 to 31.700" in detail for detail in verdict.details)
    assert any("allows RMSE of at most 30.000" in detail for detail in verdict.details)
    touching = decide(findings({"max": 31}, performance=measured))
    assert touching.decision == "healthy"
    assert "31.200 is not significantly above the allowed maximum 31.000" in touching.headline
    low = decide(findings({"min": 0.8}, performance=auc(0.7)))
    assert low.headline == "ROC AUC is 0.700 (at least 0.800 is allowed)"


def test_a_broken_bound_is_watched_with_the_reason_if_challengers_are_no_better():
    verdict = decide(findings({"max": 30}, performance=rmse(31.2, reference=31.0), challenger=compared()))
    assert verdict.decision == "watch"
    assert verdict.headline == "RMSE is 31.200 (at most 30.000 is allowed); retraining would not help"
    assert any("No challenger reduces the mean loss significantly" in detail for detail in verdict.details)
    alone = decide(findings({"max": 30, "retrain_on": ["performance"]}, performance=rmse(31.2), challenger=compared()))
    assert alone.decision == "retrain"


def test_a_bound_needs_no_value_at_training_and_holds_for_the_estimate():
    unknown = rmse(31.2, reference=None)
    assert decide(findings({"max": 30}, performance=unknown)).decision == "retrain"
    estimate = {"estimated": unknown, **UNJUDGED}
    asked = {"max": 30, "retrain_on": ["estimated_performance"]}
    assert triggers(findings(asked, **estimate)) == {
        "estimated_performance": "Estimated RMSE is 31.200 (at most 30.000 is allowed)"
    }
    held = findings({**asked, "max": 40}, labelled=0, **estimate)
    assert decide(held).decision == "healthy"


def test_an_estimate_beyond_the_bound_alone_does_not_blame_the_inputs():
    broken = {"performance": rmse(31.2), "estimated": rmse(31.2)}
    assert "changed inputs" not in decide(findings({"max": 30, "tolerance": 0.2}, **broken)).reason
    assert "changed inputs" in decide(findings({"max": 30, "tolerance": 0.0}, **broken)).reason


LEVEL = RecentLevel(version=3, windows=5, value=20.0, low=6.0, high=15.0, compared=2)


def test_a_champion_that_is_worse_than_a_recent_one_is_retrained_although_training_was_no_better():
    measured = rmse(31.2, reference=31.0, recent=LEVEL)
    verdict = decide(findings({"best_recent": "P365D"}, performance=measured))
    assert verdict.decision == "retrain"
    assert verdict.headline == "RMSE rose to 31.200 (v3 reached 20.000 before)"
    (detail,) = [detail for detail in verdict.details if "v3 reached" in detail]
    for fact in (
        "20.000",
        "5 windows, the best level in 365 days",
        "6.000 to 15.000",
        "2 versions",
        "0.400 is tolerated",
    ):
        assert fact in detail
    # A level in an older report does not count without the setting, or if the difference is within the tolerance.
    assert decide(findings(performance=measured)).decision == "healthy"
    assert decide(findings({"best_recent": "P365D", "tolerance": 0.5}, performance=measured)).decision == "healthy"
    helpless = decide(findings({"best_recent": "P365D"}, performance=measured, challenger=compared()))
    assert helpless.decision == "watch"
    assert "retraining would not help" in helpless.headline
    replaced = decide(findings({"best_recent": "P365D"}, performance=measured, champion=V2))
    assert replaced.headline == "RMSE of v1 rose to 31.200; v1 was already replaced by v2"


@given(
    st.floats(0, 100), st.floats(0, 10), st.floats(1, 100), st.none() | st.floats(0, 100), st.booleans(), st.booleans()
)
def test_more_standards_never_make_a_worse_window_acceptable(value, half, reference, bound, recent, better):
    metric = "roc_auc" if better else "rmse"
    level = RecentLevel(version=1, windows=3, value=reference, low=value - reference - 5, high=value - reference + 5)
    measured = auc(value, half, reference, metric).model_copy(update={"recent": level})
    known = {} if bound is None else {"min" if better else "max": bound}
    policy = Policy(**known, **({"best_recent": "P1D"} if recent else {}))
    assert is_worse(measured, policy) >= is_worse(measured, Policy())
    for standard in standards(measured, policy):
        # A standard that is broken (significantly) is also exceeded.
        assert standard.exceeded or not standard.broken
    verdict = decide(findings(dict(policy), performance=measured))
    assert len(verdict.headline) <= HEADLINE_LENGTH
    assert (verdict.decision == "retrain") == is_worse(measured, policy)


def test_reports_of_older_versions_have_no_recent_level():
    stored = findings().model_dump(mode="json")
    del stored["performance"]["recent"]
    for name in ("min", "max", "best_recent"):
        del stored["policy"][name]
    assert Findings.model_validate(stored) == findings()
