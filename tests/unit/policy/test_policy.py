"""The decision: retrain for a reason that retraining can mend, watch for the rest, one sentence either way."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.drift.findings import Drift, Freshness, SchemaChange
from airflow_mlops.performance.findings import LossChange, MeanLoss, Performance, Segment
from airflow_mlops.policy.decision import decide
from airflow_mlops.policy.findings import Findings
from airflow_mlops.policy.judgement import immature, is_worse, unforeseen
from airflow_mlops.policy.spec import Policy

V1, V2 = (ModelVersionRef(model="delays", version=number, run_id="r") for number in (1, 2))


def auc(value: float, half: float = 0.01, reference: float | None = 0.7, metric: str = "roc_auc") -> Performance:
    return Performance(
        metric=metric, value=value, low=value - half, high=value + half, reference=reference, labels=5_000
    )


def drift(effect: float, column: str = "temp", note: str | None = None, reference: str = "training") -> Drift:
    drifted = effect > 0.1
    return Drift(column=column, kind="numeric", reference=reference, psi=1.0, effect=effect, drifted=drifted, note=note)


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


def test_columns_that_are_no_features_are_watched_too():
    verdict = decide(findings(watched=[drift(0.54, "opened"), drift(0.05, "body")]))
    assert verdict.decision == "watch"
    assert verdict.reason.startswith("1 watched column has drifted: opened (by 54.0% of the rows); realised roc_auc")
    assert decide(findings(watched=[drift(0.05, "body")])).decision == "healthy"


def test_performance_that_is_certainly_worse_asks_for_retraining():
    verdict = decide(findings(performance=auc(0.65)))
    assert verdict.decision == "retrain"
    assert verdict.reason == (
        "Realised roc_auc 0.650 (0.640 to 0.660) is below 0.680, the least that the 0.700 at training allows."
    )


def test_a_retrain_names_the_segment_that_fell_most():
    def of(value: float) -> MeanLoss:
        return MeanLoss(value=value, low=value - 0.02, high=value + 0.02)

    worst = Segment(
        name="carrier = EV", feature="carrier", rows=3_000, share=0.15, share_reference=0.14, loss=of(0.416),
        reference=of(0.26), contribution=0.0234, adjusted_p_value=1e-6,
    )  # fmt: skip
    change = LossChange(
        metric="roc_auc", reference=0.3, value=0.35, tested=9, fallen=1, false_alarm_rate=0.05, min_rise=0.02
    )
    said = "; it fell most where carrier = EV: 15% of the rows, mean 1 - roc_auc 0.260 at training and 0.416 now"
    why = {"segments": [worst], "loss": change}
    assert decide(findings(performance=auc(0.65), **why)).reason.endswith(f"{said}, 47% of its rise.")
    # A segment may fall where all rows together did not.
    level = change.model_copy(update={"value": 0.3})
    assert decide(findings(performance=auc(0.65), segments=[worst], loss=level)).reason.endswith(f"{said}.")
    assert decide(findings(**why)) == decide(findings())


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


def test_features_that_no_longer_hang_together_are_watched():
    together = drift(0.2, "reconstruction error")
    assert decide(findings(multivariate=together)).reason.startswith(
        "The features no longer hang together as they did (the error of their reconstruction has moved by 20.0% of the rows)"
    )
    both = decide(findings(multivariate=together, features=[drift(0.5)])).reason
    assert "; the features together have drifted too (" in both
    assert decide(findings(multivariate=drift(0.01, "reconstruction error"))).decision == "healthy"


def test_labels_that_drifted_are_watched_and_inputs_that_did_are_no_concept_drift():
    assert "The labels have drifted (by 30.0% of the rows)" in decide(findings(label=drift(0.3, "label"))).reason
    fallen = {"performance": auc(0.65), "estimated": auc(0.7)}
    assert "concept drift" in decide(findings(**fallen, label=drift(0.3, "label"))).reason
    assert "concept drift" not in decide(findings(**fallen, multivariate=drift(0.3, "reconstruction error"))).reason


def test_what_is_wrong_with_columns_as_such_is_said_whatever_is_decided():
    gone = SchemaChange(column="gust", before="double", now=None, compared=False)
    other = SchemaChange(column="temp", before="double", now="string", compared=False)
    harmless = [
        SchemaChange(column="hour", before="int64", now="double", compared=True),
        SchemaChange(column="gate", before=None, now="string", compared=False),
    ]
    said = "he schema has changed since training: gust is gone and temp was double and is string"
    assert f"T{said};" in decide(findings(schema_changes=[gone, *harmless, other])).reason
    assert decide(findings(schema_changes=harmless)).decision == "healthy"
    infinite = drift(0.001).model_copy(update={"infinite": 1})
    told = "there are infinite values, and training had none: temp (1 row)"
    assert told in decide(findings(features=[infinite])).reason.lower()
    empty = drift(0.9, "wind", "no row has a value").model_copy(update={"broken": True})
    fallen = decide(findings(performance=auc(0.5), features=[empty, infinite], schema_changes=[gone]))
    assert fallen.decision == "watch"
    assert (
        "allows; look at wind (no row has a value) first; the schema has changed since training: gust is gone;"
        in fallen.reason
    )
    assert told in fallen.reason
    # Whatever asks: the training data would end with this window.
    for asks in (
        findings(performance=auc(0.5), features=[empty]),
        findings({"max_age": "P1D"}, age_days=9.0, features=[empty]),
    ):
        held_back = (
            "retraining is held back: no model can learn from inputs that are broken, so mend them first: wind (no"
        )
        assert held_back in decide(asks).reason
    assert decide(findings(performance=auc(0.5), features=[infinite])).decision == "retrain"
    assert decide(findings(performance=auc(0.5), schema_changes=harmless)).decision == "retrain"


@pytest.mark.parametrize(("behind", "decision"), [(2.0, "healthy"), (2.1, "watch"), (None, "healthy")])
def test_rows_that_stopped_coming_are_watched_where_a_limit_is_set(behind, decision):
    found = {"freshness": Freshness(behind_days=behind)}
    assert decide(findings({"max_staleness": "2D"}, **found)).decision == decision
    assert decide(findings(**found)).decision == "healthy"


UNJUDGED = {"unmeasured": "there are no labels", "performance": None}


def test_an_estimate_that_is_certainly_worse_is_watched_and_never_retrained():
    verdict = decide(findings(estimated=auc(0.65), **UNJUDGED))
    assert verdict.decision == "watch"
    assert verdict.reason == (
        "Realised performance is not judged: there are no labels; estimated roc_auc 0.650 (0.640 to 0.660) is below "
        "0.680, the least that the 0.700 at training allows."
    )
    assert "estimated roc_auc 0.700 (0.690 to 0.710) holds" in decide(findings(estimated=auc(0.7), **UNJUDGED)).reason
    assert "estimated" not in decide(findings(estimated=auc(0.7, reference=None), **UNJUDGED)).reason


def test_where_there_are_labels_they_decide_and_not_the_estimate():
    assert decide(findings(estimated=auc(0.5))) == decide(findings())
    assert decide(findings(estimated=auc(0.7), performance=auc(0.65))).decision == "retrain"


def test_what_falls_while_the_inputs_stay_is_concept_drift():
    fallen = {"performance": auc(0.65), "estimated": auc(0.7)}
    said = "from the scores alone 0.690 to 0.710 was estimated."
    assert decide(findings(**fallen)).reason.endswith(f"; concept drift: the inputs have not drifted, and {said}")
    moved = f"the inputs have drifted, but that does not explain it: {said}"
    assert decide(findings(**fallen, features=[drift(0.9)])).reason.endswith(moved)
    assert decide(findings(**fallen, prediction=drift(0.9, "score"))).reason.endswith(moved)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"estimated": auc(0.65)}, "; the inputs explain it, at least in part: from the scores alone 0.640 to 0.660"),
        # Nobody can tell.
        ({"estimated": auc(0.69, half=0.05)}, "training allows."),
        ({"estimated": None}, "training allows."),
        ({"estimated": auc(0.7), "features": [Drift(column="temp", kind="numeric")]}, "training allows."),
    ],
)
def test_without_grounds_concept_drift_is_not_said(fields, said):
    verdict = decide(findings(performance=auc(0.65), **fields))
    assert verdict.decision == "retrain"
    assert said in verdict.reason
    assert "concept drift" not in verdict.reason


def test_what_drifted_against_other_windows_than_the_training_data_says_so():
    calm, moved = drift(0.01, reference="2012-04"), drift(0.9, reference="2012-04")
    assert decide(findings(features=[calm])).reason.endswith("; nothing has drifted against 2012-04.")
    score = drift(0.123, "score", reference="2012-03 to 2012-04")
    assert decide(findings(features=[moved], prediction=score)).reason.startswith(
        "The predicted scores have drifted against 2012-03 to 2012-04 (by 12.3% of the rows); "
        "1 feature has drifted against 2012-04: temp (by 90.0% of the rows)"
    )
    mixed = decide(findings(features=[moved, drift(0.9, "wind")])).reason
    assert "2 features have drifted: temp and wind" in mixed
    # Inputs that are as they were last month may have moved all the same since training.
    fallen = {"performance": auc(0.65), "estimated": auc(0.7), "features": [calm, drift(0.01, "wind")]}
    said = "; the inputs have not drifted, and from the scores alone 0.690 to 0.710 was estimated."
    assert decide(findings(**fallen)).reason.endswith(said)


def test_the_truth_is_foreseen_where_it_lies_inside_the_interval():
    assert unforeseen(findings(estimated=auc(0.705))) is False
    assert unforeseen(findings(estimated=auc(0.75))) is True
    assert unforeseen(findings(estimated=auc(0.65))) is True
    assert unforeseen(findings()) is None
    assert unforeseen(findings(estimated=auc(0.75), **UNJUDGED)) is None
    assert unforeseen(findings(estimated=auc(0.75), unmeasured="the window ended 1 days ago")) is None


@pytest.mark.parametrize(
    ("grace", "days", "said"),
    [
        ("7D", 2.5, "the window ended 2.5 days ago, and its labels get 7 days from its end"),
        ("7D", -1, "the window has not ended, and its labels get 7 days from its end"),
        ("7D", 7, None),
        ("7D", 100, None),
        ("12h", 0.4, "the window ended 0.4 days ago, and its labels get 0.5 days from its end"),
        (None, -1, None),
    ],
)
def test_a_window_within_its_grace_is_immature(grace, days, said):
    end = datetime(2013, 5, 1, tzinfo=timezone.utc)
    assert immature(findings({"grace": grace}, created=end + timedelta(days=days))) == said


@given(
    st.sampled_from([None, V1, V2]), st.sampled_from([None, V1]), st.sampled_from([0, 10, 6_000]),
    st.sampled_from([None, auc(0.5), auc(0.7)]), st.sampled_from([None, "it is Sunday"]),
    st.sampled_from([None, 10.0, 99.0]), st.sampled_from([[], [drift(0.9)]]),
    st.sampled_from([None, timedelta(days=30)]), st.sampled_from([None, auc(0.5), auc(0.7)]),
)  # fmt: skip
def test_every_finding_leads_to_one_decision_in_one_sentence(
    champion, by, rows, performance, why, age, features, limit, estimated
):
    if performance is None and why is None and rows:
        why = "it is Monday"
    found = findings(
        {"max_age": limit}, champion=champion, scored_by=by, rows=rows, performance=performance, unmeasured=why,
        age_days=age, features=features, estimated=estimated,
    )  # fmt: skip
    verdict = decide(found)
    assert verdict.reason.endswith(".")
    assert not verdict.reason[0].islower()
    if verdict.decision == "retrain":
        judged = performance is not None and why is None and performance.value < 0.6
        assert champion is None or judged or (limit is not None and age == 99.0)
