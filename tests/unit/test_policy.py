"""The decision: retrain for a reason that retraining can mend, watch for the rest, one sentence either way."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.monitoring.policy import decide, is_worse
from airflow_mlops.specs.base import ModelVersionRef
from airflow_mlops.specs.monitor import Drift, Findings, Performance, Policy

V1, V2 = (ModelVersionRef(model="delays", version=number, run_id="r") for number in (1, 2))


def auc(value: float, half: float = 0.01, reference: float | None = 0.7, metric: str = "roc_auc") -> Performance:
    return Performance(
        metric=metric, value=value, low=value - half, high=value + half, reference=reference, labels=5_000
    )


def drift(effect: float, column: str = "temp", note: str | None = None) -> Drift:
    return Drift(column=column, kind="numeric", psi=1.0, effect=effect, drifted=effect > 0.1, note=note)


def findings(policy: dict[str, Any] | None = None, **fields: Any) -> Findings:
    known: dict[str, Any] = {
        "model": "delays", "window": "2013-04", "created": datetime(2013, 5, 1, tzinfo=timezone.utc), "champion": V1,
        "scored_by": V1, "rows": 6_000, "labelled": 5_000, "coverage": 5 / 6, "performance": auc(0.7),
        "prediction": drift(0.01, "score"), "features": [drift(0.01)],
    }  # fmt: skip
    return Findings(**{**known, **fields}, policy=Policy(**(policy or {})))


def test_a_model_that_holds_while_nothing_moves_is_healthy():
    verdict = decide(findings())
    assert verdict.decision == "healthy"
    assert verdict.reason == (
        "Realised roc_auc 0.700 (0.690 to 0.710) holds: the 0.700 at training allows down to 0.680; "
        "nothing has drifted."
    )


def test_drift_alone_is_watched_and_never_retrained():
    features = [drift(0.54), drift(0.4, "humid"), drift(0.3, "wind"), drift(0.25, "gust", "no row has a value")]
    verdict = decide(findings(features=features, prediction=drift(0.123, "score")))
    assert verdict.decision == "watch"
    assert verdict.reason.startswith(
        "The predicted scores have drifted (by 12.3% of the rows); "
        "4 features have drifted: temp, humid, wind and 1 more (by up to 54.0% of the rows)"
    )


def test_performance_that_is_certainly_worse_asks_for_retraining():
    verdict = decide(findings(performance=auc(0.65)))
    assert verdict.decision == "retrain"
    assert verdict.reason == (
        "Realised roc_auc 0.650 (0.640 to 0.660) is below 0.680, the least that the 0.700 at training allows."
    )


def test_performance_that_may_be_as_good_does_not():
    assert decide(findings(performance=auc(0.65, half=0.04))).decision == "healthy"
    assert decide(findings({"tolerance": 0.1}, performance=auc(0.65))).decision == "healthy"


def test_an_error_is_worse_where_it_is_larger_by_a_share():
    assert decide(findings(performance=auc(10.5, 0.1, 10.0, "rmse"))).decision == "retrain"
    assert decide(findings(performance=auc(10.25, 0.1, 10.0, "rmse"))).decision == "healthy"
    assert decide(findings(performance=auc(5.0, 0.1, 10.0, "rmse"))).decision == "healthy"


@given(st.floats(0, 1), st.floats(0, 0.2), st.floats(0, 1), st.floats(0, 0.2))
def test_no_performance_as_good_as_at_training_is_ever_worse(value, half, reference, tolerance):
    policy = Policy(tolerance=tolerance)
    if value + half >= reference:
        assert not is_worse(auc(value, half, reference), policy)
    if value - half <= reference:
        assert not is_worse(auc(value, half, reference, "rmse"), policy)


def test_without_a_champion_there_is_one_thing_to_do():
    verdict = decide(findings(champion=None, rows=0, performance=None))
    assert verdict.decision == "retrain"
    assert verdict.reason == "There is no champion: delays has to be trained first."


def test_an_old_champion_is_retrained_even_where_nothing_was_scored():
    for fields in ({}, {"rows": 0, "performance": None}):
        verdict = decide(findings({"max_age": timedelta(days=60)}, age_days=61.0, **fields))
        assert verdict.decision == "retrain"
        assert "ended 61 days before the end of 2013-04, and 60 are allowed" in verdict.reason
    assert decide(findings({"max_age": timedelta(days=60)}, age_days=59.0)).decision == "healthy"
    assert decide(findings(age_days=10_000.0)).decision == "healthy"


def test_a_bad_version_that_was_replaced_is_not_retrained_again():
    verdict = decide(findings(performance=auc(0.5), champion=V2))
    assert verdict.decision == "watch"
    assert verdict.reason.endswith("but delays v2 has replaced delays v1 since.")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"unmeasured": "there are 12 labels, 200 are needed", "performance": auc(0.1)},
            "is not judged: there are 12 labels",
        ),
        ({"unmeasured": "all 900 labels are of the positive class", "performance": None}, "all 900 labels are of"),
        ({"rows": 0, "performance": None}, "There are no predictions in 2013-04."),
        ({"rows": 30}, "Drift is not measured: there are 30 rows, 50 are needed; realised roc_auc"),
    ],
)
def test_what_could_not_be_measured_is_watched_and_said(fields, said):
    verdict = decide(findings(**fields))
    assert verdict.decision == "watch"
    assert said in verdict.reason


@given(
    st.sampled_from([None, V1, V2]), st.sampled_from([None, V1]), st.sampled_from([0, 10, 6_000]),
    st.sampled_from([None, auc(0.5), auc(0.7)]), st.sampled_from([None, "it is Sunday"]),
    st.sampled_from([None, 10.0, 99.0]), st.sampled_from([[], [drift(0.9)]]),
    st.sampled_from([None, timedelta(days=30)]),
)  # fmt: skip
def test_every_finding_leads_to_one_decision_in_one_sentence(
    champion, by, rows, performance, why, age, features, limit
):
    if performance is None and why is None and rows:
        why = "it is Monday"
    found = findings(
        {"max_age": limit}, champion=champion, scored_by=by, rows=rows, performance=performance, unmeasured=why,
        age_days=age, features=features,
    )  # fmt: skip
    verdict = decide(found)
    assert verdict.reason.endswith(".")
    assert not verdict.reason[0].islower()
    if verdict.decision == "retrain":
        judged = performance is not None and why is None and performance.value < 0.6
        assert champion is None or judged or (limit is not None and age == 99.0)
