"""Gates are declared as dicts, validated when they are declared, and checked in the direction of their metric."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_mlops.core.errors import SpecError
from airflow_mlops.gates.evidence import Evidence, Measurement
from airflow_mlops.gates.rules import default_gates, ignores_champion, parse_gates, with_champion
from airflow_mlops.metrics.catalog import METRICS


def evidence(candidate, champion=None, baseline=None, problem=None):
    return Evidence(
        task="binary",
        truth=np.array([0, 1]),
        candidate=Measurement("m v2", candidate),
        baseline=Measurement("baseline", baseline or {}),
        champion=Measurement("m v1", champion) if champion else None,
        champion_problem=problem,
    )


def check(declared, **found):
    (gate,) = parse_gates([declared])
    return gate.check(evidence(**found))


def test_a_fixed_bound_is_passed_at_the_bound():
    passed = check({"metric": "roc_auc", "min": 0.6}, candidate={"roc_auc": 0.6})
    assert passed.passed
    assert (passed.gate, passed.measured, passed.asked) == ("roc_auc at least 0.6", 0.6, 0.6)
    failed = check({"metric": "log_loss", "max": 0.5}, candidate={"log_loss": 0.7})
    assert not failed.passed
    assert failed.explanation.startswith("log_loss 0.7 is not")
    assert "0.5" in failed.explanation


@pytest.mark.parametrize(
    ("metric", "margin", "candidate", "champion", "asked", "passed"),
    [
        ("roc_auc", 0.0, 0.70, 0.70, 0.70, True),
        ("roc_auc", 0.0, 0.69, 0.70, 0.70, False),
        ("roc_auc", 0.02, 0.71, 0.70, 0.72, False),
        ("roc_auc", -0.02, 0.69, 0.70, 0.68, True),
        ("log_loss", 0.0, 0.50, 0.50, 0.50, True),
        ("log_loss", 0.1, 0.45, 0.50, 0.40, False),
        ("log_loss", "10%", 0.45, 0.50, 0.45, True),
        ("rmse", "-10%", 10.5, 10.0, 11.0, True),
    ],
)
def test_without_confidence_the_champion_must_be_met_in_the_direction_of_the_metric(
    metric, margin, candidate, champion, asked, passed
):
    found = check(
        {"metric": metric, "better_than_champion_by": margin, "confidence": None},
        candidate={metric: candidate},
        champion={metric: champion},
    )
    assert found.asked == pytest.approx(asked)
    assert found.passed is passed


def test_the_first_model_passes_gates_that_compare_with_the_champion():
    found = check({"metric": "roc_auc", "better_than_champion_by": 0.1}, candidate={"roc_auc": 0.5})
    assert found.passed
    assert (found.measured, found.asked, found.explanation) == (0.5, None, "There is no champion yet.")


def test_a_gate_fails_if_the_champion_could_not_be_measured():
    found = check(
        {"metric": "roc_auc", "better_than_champion_by": 0.0}, candidate={"roc_auc": 0.9}, problem="Its file is gone."
    )
    assert not found.passed
    assert found.explanation == "Its file is gone."


def test_the_baseline_must_be_exceeded_strictly():
    declared = {"metric": "roc_auc", "better_than_baseline_by": 0.0}
    assert not check(declared, candidate={"roc_auc": 0.5}, baseline={"roc_auc": 0.5}).passed
    assert check(declared, candidate={"roc_auc": 0.51}, baseline={"roc_auc": 0.5}).passed
    assert not check(
        {**declared, "better_than_baseline_by": 0.02}, candidate={"roc_auc": 0.51}, baseline={"roc_auc": 0.5}
    ).passed


def test_the_baseline_can_be_a_statistical_forecast():
    declared = {"metric": "rmse", "better_than_baseline_by": "5%", "baseline": "AutoETS"}
    (gate,) = parse_gates([declared])
    for value, passed in ((9.4, True), (9.5, False), (9.6, False)):
        found = replace(
            evidence({"rmse": value}, baseline={"rmse": 20.0}), statistical=[Measurement("AutoETS", {"rmse": 10.0})]
        )
        result = gate.check(found)
        assert (result.gate, result.asked) == ("rmse better than AutoETS by 5%", 9.5)
        assert result.passed is passed
    with pytest.raises(SpecError, match=r"'AutoETS'.*no forecasts of statistical models"):
        gate.check(evidence({"rmse": 1.0}, baseline={"rmse": 20.0}))
    with pytest.raises(SpecError, match="forecast the mean"):
        parse_gates([{**declared, "metric": "pinball", "alpha": 0.9}])


@given(
    metric=st.sampled_from(sorted(METRICS)),
    values=st.lists(st.floats(-100, 100), min_size=2, max_size=2),
    margin=st.floats(0, 10),
)
def test_gates_are_monotone_in_margin_and_value(metric, values, margin):
    candidate, champion = values
    better = candidate + 1 if METRICS[metric].higher_is_better else candidate - 1

    def passes(value: float, by: float) -> bool:
        declared = {"metric": metric, "better_than_champion_by": by, "confidence": None}
        return check(declared, candidate={metric: value}, champion={metric: champion}).passed

    if passes(candidate, margin):
        assert passes(candidate, 0.0)
        assert passes(better, margin)


def test_default_gates_compare_with_baseline_and_champion():
    baseline, champion = default_gates("regression")
    assert [baseline.name, champion.name] == ["rmse better than the baseline", "rmse better than the champion"]
    assert (champion.better_than_champion_by.amount, champion.confidence) == (0, 0.95)
    assert (baseline.better_than_baseline_by.amount, baseline.confidence) == (0, 0.95)


@pytest.mark.parametrize(
    ("metric", "better", "equal", "worse"), [("roc_auc", 0.8, 0.7, 0.6999), ("log_loss", 0.4, 0.5, 0.5001)]
)
def test_gates_without_a_comparison_still_refuse_a_model_that_is_worse_than_the_champion(metric, better, equal, worse):
    bound, added = with_champion(parse_gates([{"metric": "accuracy", "min": 0.5}]), metric)
    assert bound.metric == "accuracy"
    for value, passed in ((better, True), (equal, True), (worse, False)):
        assert added.check(evidence({metric: value}, {metric: equal})).passed is passed
    assert added.check(evidence({metric: worse})).passed
    assert not added.check(evidence({metric: better}, problem="Its file is gone.")).passed


@pytest.mark.parametrize(
    "declared",
    [
        {"metric": "accuracy", "better_than_champion_by": -0.5},
        {"metric": "roc_auc", "better_than_champion_by": 0.1, "confidence": None},
        {"champion": "ignore"},
    ],
)
def test_gates_that_say_how_to_compare_with_the_champion_are_kept_as_they_are(declared):
    gates = parse_gates([{"metric": "roc_auc", "min": 0.5}, declared])
    assert with_champion(gates, "roc_auc") == gates
    assert with_champion(default_gates("binary"), "roc_auc") == default_gates("binary")


def test_a_gate_on_slices_does_not_replace_the_comparison_of_all_rows():
    gates = parse_gates([{"metric": "log_loss", "slices": ["carrier"], "not_worse_than_champion_by": 0.1}])
    assert [gate.name for gate in with_champion(gates, "roc_auc")][1:] == ["roc_auc not worse than the champion"]


def test_only_the_author_can_have_the_champion_ignored():
    gates = parse_gates([{"metric": "roc_auc", "min": 0.5}, {"champion": "ignore"}])
    assert ignores_champion(gates)
    assert gates[1].check(evidence({"roc_auc": 0.1}, {"roc_auc": 0.9})).passed
    assert not ignores_champion(gates[:1])


@pytest.mark.parametrize(
    ("declared", "name"),
    [
        ({"better_than_champion_by": 0.01}, "roc_auc better than the champion by 0.01"),
        ({"better_than_champion_by": "-2%"}, "roc_auc at most 2% worse than the champion"),
        ({"better_than_champion_by": 0, "confidence": None}, "roc_auc not worse than the champion"),
    ],
)
def test_the_name_of_a_champion_gate_states_the_requirement(declared, name):
    (gate,) = parse_gates([{"metric": "roc_auc", **declared}])
    assert gate.name == name


def test_an_interval_needs_predictions():
    with pytest.raises(SpecError, match="m v2"):
        check({"metric": "roc_auc", "better_than_champion_by": 0}, candidate={"roc_auc": 1}, champion={"roc_auc": 0})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ([], "Gates must be a list"),
        ("roc_auc > 0.6", "Gates must be a list"),
        ([{"metric": "auc", "min": 0.6}], "'auc' is not a metric: choose one of roc_auc"),
        ([{"metric": "roc_auc"}], "Gate 1 .* must have exactly one of the keys min, max, better_than_champion_by"),
        ([{"metric": "roc_auc", "min": 0.6}, {"metric": "f1", "atleast": 1}], "Gate 2"),
        ([{"metric": "roc_auc", "min": 0.6, "better_than_champion_by": 0}], "must have exactly one of the keys"),
        ([{"metric": "roc_auc", "min": float("inf")}], "min is infinite"),
        ([{"metric": "roc_auc", "min": "high"}], "min: Input should be a valid number"),
        ([{"metric": "roc_auc", "min": 0.1, "max": 0.2}], "`min` and `max` are both set"),
        ([{"metric": "roc_auc", "better_than_champion_by": "x%"}], "should be a valid number"),
        ([{"min": 0.6}], "metric: Field required"),
        ([{"metric": "roc_auc", "min": 0.6, "color": "red"}], "key 'color': choose one of conf"),
        ([{"metric": "rocauc", "min": 0.6}], r"\(did you mean 'roc_auc'\?\)"),
        ([{"metric": "f1", "better_then_champion_by": 0}], r"\(did you mean 'better_than_champion_by'\?\)"),
        ([{"metric": "f1", "better_than_champion_by": 0, "confidense": 1}], r"\(did you mean 'confidence'\?\)"),
        ([{"metric": "f1", "better_than_champion_by": 0, "confidence": 95}], "confidence: Input should be less than 1"),
        ([{"behaviour": "directional", "feature": "wind"}], r"\(did you mean 'direction'\?\)"),
        ([{"fairness": "equalised_odds", "sensitive": "sex"}], r"\(did you mean 'equalized_odds'\?\)"),
        ([{"behaviour": "direction", "feature": "wind"}], "direction: Field required"),
        ([{"metric": "f1", "not_worse_than_champion_by": 0.1}], "slices: Field required"),
        ([{"metric": "f1", "slices": [], "not_worse_than_champion_by": 0.1}], "slices: List should have at least 1"),
        ([{"metric": "f1", "slices": ["a"], "not_worse_than_champion_by": -0.1}], "not_worse_than_champion_by: "),
        ([{"champion": "maybe"}], "champion: Input should be 'ignore'"),
        ([{"champion": "ignore"}, {"metric": "roc_auc", "better_than_champion_by": 0}], "contradict each other"),
        ([{"max_latency_ms": 0}], "max_latency_ms: Input should be greater than 0"),
        (["roc_auc"], "Gate 1 is 'roc_auc', but must be a dict"),
    ],
)
def test_an_invalid_declaration_is_named_in_the_error(declared, message):
    with pytest.raises(SpecError, match=message):
        parse_gates(declared)


def test_a_gate_on_an_unavailable_metric_names_the_available_ones():
    with pytest.raises(SpecError, match="f1_macro.*m v2.*roc_auc"):
        check({"metric": "f1_macro", "min": 0.1}, candidate={"roc_auc": 0.6})
