"""Monitoring with a real registry: score, join labels, compare, decide, and request retraining."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.core.base import parse
from airflow_mlops.core.errors import DatasetNotFoundError, ModelFormatError, SchemaError, SpecError
from airflow_mlops.core.references import DatasetRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.performance.difference import difference
from airflow_mlops.policy.findings import Report
from airflow_mlops.policy.wording import number
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.monitor import step as monitor
from airflow_mlops.stages.monitor.spec import MonitorSpec
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.candidates import register, training_set
from tests.support.deployed import flights, promote, scoring_set, write


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def outcomes(store, champion, window: str, data: pa.Table, known: slice = slice(None), **details) -> DatasetRef:
    """Score ``data`` and join the labels of the rows ``known``."""
    context = StepContext(store=store)
    rows = scoring_set(store, data, window, **details)
    made = score.run(ScoreSpec(model=champion.model, dataset=rows), context).dataset
    labels = data.select(["flight", "arr_delay"]).take(pa.array(np.arange(data.num_rows)[known]))
    spec = {
        "predictions": made, "labels": write(store, "flights", labels, window), "on": ["flight"],
        "label": {"name": "late", "expression": "arr_delay > 15"}, "name": f"{champion.model}_outcomes",
    }  # fmt: skip
    return join_labels.run(JoinLabelsSpec(**spec), context).dataset


def watch(store, champion, dataset, window: str | None = None, **policy):
    spec = MonitorSpec(model=champion.model, dataset=dataset, window=window, policy=policy)
    return monitor.run(spec, StepContext(store=store))


def stored(store, champion, window: str) -> Report:
    return Report.model_validate(store.read_json(f"reports/{champion.model}/{window}.json"))


def test_a_window_like_training_is_healthy_and_has_a_report(store, champion):
    result = watch(store, champion, outcomes(store, champion, "2013-04", flights(seed=2)))
    assert result.decision == "healthy", result.reason
    assert result.metrics["rows"] == result.metrics["labelled"] == 2_000
    assert result.metrics["roc_auc"] == pytest.approx(0.86, abs=0.03)
    assert result.metrics["roc_auc_low"] < result.metrics["roc_auc"] < result.metrics["roc_auc_high"]
    assert result.metrics["roc_auc_reference"] == 0.86
    assert result.metrics["feature_drift"] < 0.1
    assert result.metrics["prediction_drift"] < 0.1
    assert (result.metric, result.champion, result.scored_by) == ("roc_auc", champion, champion)
    assert result.report_url == store.url_of(f"reports/{champion.model}/2013-04.html")
    page = store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    assert result.headline in page
    assert all(detail in page for detail in result.details)
    report = stored(store, champion, "2013-04")
    assert (
        result.metrics["estimated_roc_auc_low"] < result.metrics["roc_auc"] < result.metrics["estimated_roc_auc_high"]
    )
    assert report.estimated.labels == 2_000
    assert report.notes[-1].endswith("; the realised value lies inside this interval.")
    assert report.notes[-1] in page
    assert {drift.column for drift in report.features} == {"distance", "wind"}
    # Two numeric features and the score: each with a Kolmogorov-Smirnov, a Cucconi and a missing-value test.
    assert (report.drift_tests.columns, report.drift_tests.false_alarm_rate) == (3, 0.05)
    assert not any(drift.drifted for drift in (*report.features, report.prediction))
    assert report.prediction.adjusted_p_value > 0.05
    assert report.age_days == 30
    # XCom contains the numbers. The data of the plots are only in the artifact store.
    assert len(result.model_dump_json()) < 2_000


def test_the_rate_of_positives_is_that_of_the_predictions_and_is_compared_with_the_held_out_rows(store, champion):
    dataset = outcomes(store, champion, "2013-04", flights(seed=2))
    result = watch(store, champion, dataset)
    made = pa.Table.from_batches(open_dataset(store, dataset).batches(columns=["prediction"]))["prediction"]
    rate = stored(store, champion, "2013-04").positives
    assert (rate.positive, rate.threshold, rate.rows) == (True, 0.5, 2_000)
    assert result.metrics["positive_rate"] == rate.value == pc.mean(pc.equal(made, True)).as_py()
    assert result.metrics["positive_rate_low"] == rate.low < rate.reference < rate.high
    assert 0.03 < rate.high - rate.low < 0.06
    page = store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    assert f"{100 * rate.value:.3g}%" in page
    assert "True is predicted at a score of 0.5 or more" in page
    later = watch(store, champion, outcomes(store, champion, "2013-05", flights(seed=3, shift=1.0)))
    assert later.metrics["positive_rate_reference"] == rate.reference
    assert later.metrics["positive_rate_low"] > rate.high


def test_fairness_is_that_of_the_gates_and_a_significant_difference_is_reported(store, champion):
    metrics = pytest.importorskip("fairlearn.metrics")
    rows = flights(seed=2)
    # One of the two hubs has longer flights, and therefore more positive predictions.
    hub = np.where(rows["distance"].to_numpy() + np.random.default_rng(0).normal(size=2_000) > 0, "EWR", "JFK")
    dataset = outcomes(store, champion, "2013-04", rows.append_column("hub", pa.array(hub)), keys=["flight", "hub"])
    parity = {"fairness": "demographic_parity", "sensitive": "hub", "max_difference": 0.1}
    odds = {**parity, "fairness": "equalized_odds", "max_difference": 0.9}
    result = watch(store, champion, dataset, fairness=[parity, odds])
    made = open_dataset(store, dataset).table(columns=["label", "score", "hub"]).to_pandas()
    given = {"sensitive_features": made["hub"]}
    truth, predicted = made["label"].astype(bool), made["score"] >= 0.5
    shares, odds_found = stored(store, champion, "2013-04").fairness
    assert shares.value == pytest.approx(metrics.demographic_parity_difference(truth, predicted, **given))
    assert odds_found.value == pytest.approx(metrics.equalized_odds_difference(truth, predicted, **given))
    assert 0.1 < shares.low < shares.value < shares.high < shares.low + 0.1
    assert (shares.least.name, shares.most.name) == ("hub = JFK", "hub = EWR")
    assert shares.least.rows + shares.most.rows == 2_000
    assert odds_found.low < odds_found.value < odds_found.high < 0.9
    assert result.metrics["demographic_parity_over_hub_low"] == shares.low
    # Only the difference whose whole interval is above the limit is a reason to look.
    assert result.decision == "watch"
    assert result.headline.startswith(f"The demographic parity difference over hub is {number(shares.value)}")
    assert not any("equalized odds" in detail for detail in result.details)
    page = store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    assert "Demographic parity over hub" in page
    assert "Equalized odds over hub" in page
    allowed = watch(store, champion, dataset, fairness=[{**parity, "max_difference": 0.5}])
    assert allowed.decision == "healthy", allowed.reason
    # Each hub is a single cluster, so the rates of other clusters are unknown, and the interval is from 0 to 1.
    watch(store, champion, dataset, fairness=[parity], groups="hub")
    (unknown,) = stored(store, champion, "2013-04").fairness
    assert (unknown.value, unknown.low, unknown.high) == (shares.value, 0.0, 1.0)


def test_fairness_without_labels_or_without_its_column(store, champion):
    rows = flights(seed=2)
    rows = rows.append_column("hub", pa.array(["EWR", "JFK"] * 1_000))
    dataset = outcomes(store, champion, "2013-04", rows, slice(50), keys=["flight", "hub"])
    rule = {"fairness": "equalized_odds", "sensitive": "hub", "max_difference": 0.5}
    watch(store, champion, dataset, fairness=[rule])
    report = stored(store, champion, "2013-04")
    assert report.fairness == []
    assert any(note.startswith("The equalized odds difference over hub was not measured") for note in report.notes)
    with pytest.raises(SpecError, match="sensitive='sex', which is not a column of the predictions"):
        watch(store, champion, dataset, fairness=[{**rule, "sensitive": "sex"}])


def test_drift_without_worse_performance_is_healthy_and_reported(store, champion):
    result = watch(store, champion, outcomes(store, champion, "2013-04", flights(seed=2, shift=1.0)))
    assert result.decision == "healthy"
    assert result.headline.startswith("Performance as expected (ROC AUC")
    assert "1 feature drifted: distance (effect 0.3" in result.headline
    assert result.metrics["features_drifted"] == 1
    assert result.most_drifted == "distance"


def test_a_model_that_got_worse_is_retrained_and_the_report_remembers_earlier_windows(store, champion):
    watch(store, champion, outcomes(store, champion, "2013-04", flights(seed=2)))
    result = watch(store, champion, outcomes(store, champion, "2013-05", flights(seed=3, noise=8)))
    assert result.decision == "retrain"
    assert result.headline.startswith("ROC AUC fell to 0.")
    assert result.headline.endswith(" (at least 0.840 was expected)")
    assert "0.860 on the held-out part at training" in result.reason
    assert "concept drift" in result.reason
    page = store.read_bytes(f"reports/{champion.model}/2013-05.html").decode()
    assert "2013-04: roc_auc" in page
    assert "2013-05: roc_auc" in page
    # A second check of a window uses only earlier windows, and replaces the report of the first check.
    watch(store, champion, {"name": f"{champion.model}_outcomes", "window": "2013-04"})
    assert "2013-05: roc_auc" not in store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    assert len(store.keys(f"reports/{champion.model}")) == 4


def test_the_report_says_the_interval_of_the_difference_corrected_for_the_selection(store, champion, client, tmp_path):
    def checked() -> Report:
        watch(store, champion, {"name": f"{champion.model}_outcomes", "window": "2013-04"})
        return stored(store, champion, "2013-04")

    outcomes(store, champion, "2013-04", flights(seed=2))
    alone = checked()
    assert alone.performance.reference_low < 0.86 < alone.performance.reference_high
    assert alone.performance.compared == 1
    client.set_model_version_tag(champion.model, str(champion.version), "mlops.compared", "5")
    among = checked()
    assert among.performance.compared == among.estimated.compared == 5
    (low, high), (lower, higher) = (difference(item.performance, 0.95) for item in (alone, among))
    assert lower < low < high < higher
    page = store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()
    for text in (among.verdict.reason, page):
        assert f"difference {number(lower)} to {number(higher)}, corrected for 5 compared models" in text


def test_rows_of_one_group_are_not_independent(store, champion):
    # Ten copies of each flight carry no more information than one.
    once = flights(200, seed=2)
    copies = pa.concat_tables([once] * 10).set_column(0, "flight", pa.array(np.arange(2_000)))
    made = outcomes(store, champion, "2013-04", copies)
    watch(store, champion, made)
    alone = stored(store, champion, "2013-04").performance
    watch(store, champion, made, groups="distance")
    grouped = stored(store, champion, "2013-04").performance
    assert grouped.value == pytest.approx(alone.value)
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(10**0.5, rel=0.15)
    assert grouped.reference_low < alone.reference_low
    with pytest.raises(SpecError, match="policy.groups='customer' is not a column"):
        watch(store, champion, made, groups="customer")


def test_a_few_groups_do_not_cause_false_drift(store, champion):
    few = pa.concat_tables([flights(40, seed=5)] * 40).set_column(0, "flight", pa.array(np.arange(1_600)))
    made = outcomes(store, champion, "2013-04", few)

    def drifted() -> list[str]:
        report = stored(store, champion, "2013-04")
        found = [*report.features, report.prediction, report.label, report.multivariate]
        return [item.column for item in found if item is not None and item.drifted]

    watch(store, champion, made)
    assert drifted()
    watch(store, champion, made, groups="distance")
    assert drifted() == []
    moved = few.set_column(few.column_names.index("distance"), "distance", pc.add(few["distance"], 3.0))
    watch(store, champion, outcomes(store, champion, "2013-04", moved), groups="distance")
    assert "distance" in drifted()


def test_the_report_has_the_segment_and_the_change_point_of_worse_performance(store, champion):
    def window(month: int, worse: bool) -> pa.Table:
        data = flights(4_000, seed=month)
        # In strong wind the labels become random.
        gale = data["wind"].to_numpy() > 0.85
        late = np.where(gale & worse, np.random.default_rng(month).permutation(data["arr_delay"]), data["arr_delay"])
        return data.set_column(data.schema.get_field_index("arr_delay"), "arr_delay", pa.array(late))

    found = [
        watch(store, champion, outcomes(store, champion, f"2013-{month:02}", window(month, worse=month > 6)))
        for month in range(4, 9)
    ]
    assert [result.changed_since for result in found] == [None, None, None, None, "2013-07"]
    last, report = found[-1], stored(store, champion, "2013-08")
    assert last.worst_segment == report.segments[0].name
    assert last.worst_segment.startswith("wind above 0.8")
    assert report.segments[0].contribution > 0.8 * (report.loss.value - report.loss.reference) > 0
    assert report.loss.value == pytest.approx(1 - report.performance.value)
    assert last.decision == "retrain"
    assert f"Largest drop: {last.worst_segment} (" in last.reason
    assert not stored(store, champion, "2013-05").segments
    page = store.read_bytes(f"reports/{champion.model}/2013-08.html").decode()
    assert "since 2013-07, ROC AUC has been" in page
    assert last.worst_segment in page
    # The model depends on the distance alone.
    assert {drift.column: drift.importance for drift in report.features} == {"distance": 1.0, "wind": 0.0}
    assert len(last.model_dump_json()) < 5_000


def test_segments_wait_for_labels_that_can_be_judged(store, champion):
    made = outcomes(store, champion, "2013-04", flights(seed=3, noise=8))
    watch(store, champion, made, min_labels=5_000)
    report = stored(store, champion, "2013-04")
    assert report.loss is None
    assert not report.segments


def test_a_broken_report_of_an_earlier_window_is_left_out(store, champion):
    store.write_bytes(f"reports/{champion.model}/2013-02.json", b"{broken")
    store.write_json(f"reports/{champion.model}/2013-03.json", {"of": "another format"})
    assert watch(store, champion, outcomes(store, champion, "2013-04", flights(seed=2))).decision == "healthy"


def test_too_few_labels_are_watched_and_reported(store, champion):
    made = outcomes(store, champion, "2013-04", flights(seed=2, noise=8), known=slice(50))
    result = watch(store, champion, made)
    assert result.decision == "watch"
    assert result.headline == "Realised performance is not judged because there are only 50 labels (200 needed)"
    assert "Estimated ROC AUC" in result.reason
    assert result.metrics["coverage"] == 0.025
    made = outcomes(store, champion, "2013-04", flights(seed=2, noise=8), known=slice(300))
    assert "15.0% of the predictions have a label (50% needed)" in watch(store, champion, made).reason
    assert watch(store, champion, made, min_coverage=0.1).decision == "retrain"


def test_predictions_without_labels_are_watched_for_drift_alone(store, champion):
    outcomes(store, champion, "2013-04", flights(seed=2, shift=1.0))
    result = watch(store, champion, {"name": f"{champion.model}_predictions", "window": "2013-04"})
    assert result.decision == "watch"
    assert "no labels were joined to the predictions" in result.reason
    assert result.most_drifted == "distance"


def test_without_labels_performance_is_estimated_from_the_scores(store, champion):
    data = flights(seed=2)
    # The distances of these flights vary less, so any model separates the flights less well.
    alike = data.set_column(
        data.schema.get_field_index("distance"), "distance", pa.array(data["distance"].to_numpy() * 0.3)
    )
    outcomes(store, champion, "2013-04", alike)
    result = watch(store, champion, {"name": f"{champion.model}_predictions", "window": "2013-04"})
    assert result.decision == "watch"
    assert result.headline.startswith("Estimated ROC AUC fell to 0.6")
    assert result.headline.endswith("; retraining waits for labels")
    assert "at least 0.840 expected" in result.details[0]
    assert "roc_auc" not in result.metrics
    # Performance is estimated for all rows, or for the labelled rows only if realised performance can be judged.
    made = outcomes(store, champion, "2013-04", data, known=slice(1_500))
    watch(store, champion, made)
    assert stored(store, champion, "2013-04").estimated.labels == 1_500
    watch(store, champion, made, min_labels=1_501)
    assert stored(store, champion, "2013-04").estimated.labels == 2_000


def test_each_version_of_a_window_is_compared_with_its_own_training(store, champion, client, tmp_path):
    """Scoring runs daily, and the champion changes within the month."""
    days = [f"2013-04-{day:02d}" for day in range(1, 5)]
    made = []
    for place, day in enumerate(days):
        if place == 3:
            newer = promote(client, tmp_path, store, champion.model, roc_auc=0.7)
        data = flights(1_000, seed=place, shift=2.0 if place < 3 else 0.0)
        data = data.set_column(0, "flight", pa.array(np.arange(1_000) + 1_000 * place))
        write(store, "month", data.select(["flight", "arr_delay"]), day)
        spec = ScoreSpec(model=champion.model, dataset=scoring_set(store, data, day, name="daily"))
        made.append(score.run(spec, StepContext(store=store)).dataset)
    spec = {
        "predictions": {"name": f"{champion.model}_predictions", "window": "2013-04", "gaps": "allow"}, "labels": {"name": "month"},
        "on": ["flight"], "label": {"name": "late", "expression": "arr_delay > 15"}, "name": "month_outcomes",
    }  # fmt: skip
    joined = join_labels.run(JoinLabelsSpec(**spec), StepContext(store=store)).dataset
    predictions = {"name": f"{champion.model}_predictions", "window": "2013-04", "gaps": "allow"}
    for dataset, labelled in ((joined, True), (predictions, False)):
        result = watch(store, champion, dataset, window="2013-04", min_labels=100)
        assert (result.champion, result.scored_by) == (newer, newer)
        assert result.metrics["rows"] == 1_000
        report = stored(store, champion, "2013-04")
        # Only the rows of the older version had drifted.
        assert [drift.column for drift in report.features if drift.drifted] == []
        (replaced,) = report.replaced
        assert (replaced.version, replaced.rows) == (champion, 3_000)
        assert [drift.column for drift in replaced.features if drift.drifted] == ["distance"]
        assert any(f"v{newer.version} made 1,000 of 4,000 predictions" in detail for detail in result.details)
        assert any(f"v{champion.version} made 3,000 predictions." in detail for detail in result.details)
        if labelled:
            assert (report.labelled, report.coverage, replaced.labelled) == (1_000, 1, 3_000)
            assert report.performance.reference == 0.7
            assert (replaced.performance.reference, replaced.performance.labels) == (0.86, 3_000)


def test_a_version_that_was_deleted_is_reported_and_the_latest_one_is_judged(store, champion, client, tmp_path):
    for place, day in enumerate(("2013-04-01", "2013-04-02")):
        data = flights(500, seed=place)
        score.run(
            ScoreSpec(model=champion.model, dataset=scoring_set(store, data, day, name="daily")),
            StepContext(store=store),
        )
        if place == 0:
            promote(client, tmp_path, store, champion.model)
    client.delete_model_version(champion.model, str(champion.version))
    predictions = {"name": f"{champion.model}_predictions", "window": "2013-04", "gaps": "allow"}
    result = watch(store, champion, predictions, window="2013-04")
    assert result.metrics["rows"] == 500
    assert any("its performance is not judged" in detail.lower() for detail in result.details)


def test_a_missing_estimate_is_noted(store, champion, client, tmp_path):
    made = outcomes(store, champion, "2013-04", flights(40, seed=2))
    watch(store, champion, made)
    noted = "Performance was not estimated from the scores, because "
    assert stored(store, champion, "2013-04").notes == [f"{noted}there are only 40 scores (50 needed)."]
    # The model was trained before calibrations were stored.
    champion = promote(client, tmp_path, store, champion.model, calibrated=False)
    assert watch(store, champion, outcomes(store, champion, "2013-04", flights(seed=2))).decision == "healthy"
    assert stored(store, champion, "2013-04").loss is None
    assert {drift.importance for drift in stored(store, champion, "2013-04").features} == {None}
    exact, estimate = stored(store, champion, "2013-04").notes
    assert "ROC AUC at training is treated as exact" in exact
    assert estimate == f"{noted}the profile of the version has no calibration of its scores."


def test_performance_is_not_judged_within_the_grace_period(store, champion):
    made = outcomes(store, champion, "2013-04", flights(seed=3, noise=8))
    result = watch(store, champion, made, grace="100000D")
    assert result.decision == "healthy"
    assert result.headline.startswith("Estimated ")
    assert "100,000 days after its end" in result.reason
    assert "Estimated ROC AUC" in result.reason
    assert stored(store, champion, "2013-04").performance is not None
    assert watch(store, champion, made, grace="1D").decision == "retrain"


def test_labels_with_an_arrival_time_have_a_delay(store, champion):
    data = flights(seed=2)
    made = score.run(
        ScoreSpec(model=champion.model, dataset=scoring_set(store, data, "2013-04")), StepContext(store=store)
    ).dataset
    days = np.arange(2_000) / 100
    came = data["time_hour"].to_numpy() + (days * 86_400_000_000).astype("timedelta64[us]")
    labels = data.select(["flight", "arr_delay"]).append_column("landed", pa.array(came, pa.timestamp("us", "UTC")))
    spec = {
        "predictions": made, "labels": write(store, "flights", labels, "2013-04"), "on": ["flight"],
        "label": {"name": "late", "expression": "arr_delay > 15"}, "labels_timestamp": "landed", "name": "outcomes",
    }  # fmt: skip
    result = watch(store, champion, join_labels.run(JoinLabelsSpec(**spec), StepContext(store=store)).dataset)
    assert [result.metrics[f"label_delay_{name}"] for name in ("median", "p90", "p99")] == pytest.approx(
        [10.0, 18.0, 19.8], abs=0.3
    )
    assert "Label delay" in store.read_bytes(f"reports/{champion.model}/2013-04.html").decode()


def odd(**columns) -> pa.Table:
    data = flights(400, seed=2)
    for name, values in columns.items():
        data = data.set_column(data.schema.get_field_index(name), name, values)
    return data


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (odd(arr_delay=pa.array([60.0] * 400)), "all 400 labels are of the positive class"),
        (odd(arr_delay=pa.array([1.0] * 400)), "all 400 labels are of the negative class"),
        (odd(arr_delay=pa.nulls(400, pa.float64())), "there are no labels"),
        (odd(arr_delay=pa.array([float("nan")] * 400)), "there are no labels"),
        (odd(wind=pa.nulls(400, pa.float64())), r"wind (1 \(no row has a value\)|has no values)"),
        (odd(wind=pa.array([float("inf")] * 400)), r"wind (1 \(no row has a value\)|has no values)"),
        (odd(distance=pa.array([float("nan")] * 400)), r"distance (1 \(no row has a value\)|has no values)"),
        (flights(400, seed=2).slice(0, 0), "No predictions in 2013-04"),
        (flights(400, seed=2).slice(0, 3), r"only 3 labels \(200 needed\)"),
    ],
    ids=["all late", "none late", "no label", "nan label", "missing", "infinite", "nan", "empty", "three rows"],
)  # fmt: skip
def test_a_broken_window_gets_a_verdict_that_names_the_problem(data, fact, store, champion):
    result = watch(store, champion, outcomes(store, champion, "2013-04", data))
    assert result.decision == "watch"
    assert re.search(fact, result.reason), result.reason
    json.dumps(result.model_dump(mode="json"), allow_nan=False)


@pytest.mark.parametrize(
    "missing", [None, "", {}, {"dataset": None}, {"name": "nobodys_outcomes", "window": "2013-04"}]
)
def test_without_predictions_the_registry_alone_decides(missing, store, champion, client):
    spec = {"model": "nobody", "dataset": missing, "window": "2013-04"}
    result = monitor.run(parse(MonitorSpec, spec, "the test"), StepContext(store=store))
    assert (result.decision, result.champion) == ("retrain", None)
    assert result.headline == "Model 'nobody' has no champion yet"
    result = monitor.run(parse(MonitorSpec, {**spec, "model": champion.model}, "the test"), StepContext(store=store))
    assert (result.decision, result.headline) == ("watch", "No predictions in 2013-04")
    # The training data of the champion end in March.
    old = {**spec, "model": champion.model, "window": "2013-08", "policy": {"max_age": "P100D"}}
    result = monitor.run(parse(MonitorSpec, old, "the test"), StepContext(store=store))
    assert result.decision == "retrain"
    assert "ended 153 days before the end of 2013-08" in result.reason


def test_a_bad_version_that_has_been_replaced_is_not_retrained_again(store, champion, client, tmp_path):
    made = outcomes(store, champion, "2013-04", flights(seed=3, noise=8))
    newer = promote(client, tmp_path, store, champion.model)
    result = watch(store, champion, made)
    assert (result.decision, result.champion, result.scored_by) == ("watch", newer, champion)
    assert f"model {newer} has replaced v{champion.version}" in result.reason


def test_persistence_counts_windows_in_whatever_order_they_are_checked(store, champion):
    often = {"persistence": {"k": 2, "n": 2}}
    made = {month: outcomes(store, champion, f"2013-0{month}", flights(seed=month, noise=8)) for month in (4, 5)}
    late = watch(store, champion, made[5], **often)
    assert late.decision == "watch"
    assert "1 of the last 2 windows (2 needed)" in late.reason
    assert watch(store, champion, made[4], **often).decision == "watch"
    result = watch(store, champion, made[5], **often)
    assert result.decision == "retrain"
    assert "2 of the last 2 windows" in result.reason
    assert (result.request.id, result.request.triggers) == (f"{champion.model}/2013-05", ["performance"])
    assert result.request.report_url == result.report_url
    assert result.request.metrics == result.metrics
    page = store.read_bytes(f"reports/{champion.model}/2013-05.html").decode()
    assert f"Request: {champion.model}/2013-05." in page


def test_drift_of_important_features_retrains_if_the_policy_enables_it(store, champion):
    moved = outcomes(store, champion, "2013-04", flights(seed=2, shift=1.0))
    assert watch(store, champion, moved).decision == "healthy"
    result = watch(store, champion, moved, retrain_on=["drift"])
    assert (result.decision, result.request.triggers) == ("retrain", ["drift"])
    assert result.headline == "Drifted features have 100% of the importance: distance"
    assert "distance 100% (100% together, 50% needed)" in result.reason
    data = flights(seed=3)
    wind = pa.array(data["wind"].to_numpy() + 1)
    made = outcomes(store, champion, "2013-05", data.set_column(data.schema.get_field_index("wind"), "wind", wind))
    # The wind has no importance.
    assert watch(store, champion, made, retrain_on=["drift"]).decision == "healthy"
    assert [drift.column for drift in stored(store, champion, "2013-05").features if drift.drifted] == ["wind"]


def test_new_data_is_counted_from_the_end_of_the_training_data_to_the_end_of_the_window(store, champion):
    for window in ("2013-03", "2013-04", "2013-05", "2013-06"):
        write(store, "flights", flights(600).select(["flight"]), window)
    policy = {"new_data": {"dataset": "flights", "windows": 2}}
    assert watch(store, champion, None, "2013-04", **policy).decision == "watch"
    result = watch(store, champion, None, "2013-05", **policy)
    assert (result.decision, result.request.triggers) == ("retrain", ["new_data"])
    assert result.headline == "2 new windows of 'flights' since training (2 needed)"
    assert stored(store, champion, "2013-05").arrivals.share == 0.6
    share = {"new_data": {"dataset": "flights", "share": 0.9}}
    assert watch(store, champion, None, "2013-05", **share).decision == "watch"
    assert watch(store, champion, None, "2013-06", **share).decision == "retrain"
    assert watch(store, champion, None, "2013-06", new_data={"dataset": "nothing", "windows": 1}).decision == "watch"


def test_a_champion_of_another_code_version_is_retrained(store, champion, client):
    assert watch(store, champion, None, "2013-04", code="b2").decision == "watch"
    (note,) = stored(store, champion, "2013-04").notes
    assert f"code that trained model {champion} is unknown" in note
    assert "mlops.code_version" in note
    client.set_tag(champion.run_id, "mlops.code_version", "a1")
    result = watch(store, champion, None, "2013-04", code="b2")
    assert (result.decision, result.request.code) == ("retrain", "b2")
    assert result.headline == "Training code is 'b2', but v1 used 'a1'"
    assert watch(store, champion, None, "2013-04", code="a1").decision == "watch"


def test_without_the_training_set_the_amount_of_new_data_is_unknown(store, champion):
    store.fs.rm(store.path("datasets/delays_training/manifests"), recursive=True)
    watch(store, champion, None, "2013-04", new_data={"dataset": "flights", "windows": 1})
    assert f"amount of new data since the training of model {champion} is unknown" in "".join(
        stored(store, champion, "2013-04").notes
    )


def test_the_error_names_the_wrong_setting(store, champion, client, tmp_path):
    made = outcomes(store, champion, "2013-04", flights(seed=2))
    with pytest.raises(SpecError, match=r"policy\.metric='rmse' cannot be measured on predictions of a binary model"):
        watch(store, champion, made, metric="rmse")
    other = promote(client, tmp_path, store, f"other_{uuid.uuid4().hex[:8]}")
    with pytest.raises(SpecError, match=f"holds predictions of model '{champion.model}', not of '{other.model}'"):
        watch(store, other, made)
    with pytest.raises(SpecError, match=r"has no time window\. Set window="):
        watch(store, champion, None)
    with DatasetWriter(store, "rows") as writer:
        writer.write(flights(seed=2))
        raw = writer.commit(window=Window.model_validate("2013-04"))[0].ref
    with pytest.raises(SchemaError, match="'rows' has no predictions"):
        watch(store, champion, raw)
    with pytest.raises(DatasetNotFoundError, match="is not in the artifact store"):
        watch(store, champion, DatasetRef(name="gone", id="0" * 64, rows=1, window="2013-04"))
    with pytest.raises(SpecError, match=r"policy\.tolerance: Input should be greater than or equal to 0"):
        parse(MonitorSpec, {"model": "m", "policy": {"tolerance": -1}}, "The test")


def test_a_version_without_a_profile_cannot_be_monitored(store, champion, client, tmp_path):
    bare = register(client, tmp_path / "bare", training_set(store), (2, 0), model=champion.model)
    client.set_registered_model_alias(champion.model, "champion", str(bare.version))
    made = outcomes(store, bare, "2013-04", flights(seed=2))
    with pytest.raises(ModelFormatError, match=rf"{bare} has no .mlops/profile.json. to compare with"):
        watch(store, bare, made)


DAG = """
from airflow.sdk import DAG
from airflow_mlops.operators import JoinLabelsOperator, MonitorOperator

with DAG("monitor_{model}_{month}", default_args={{"model": "{model}"}}):
    joined = JoinLabelsOperator(
        task_id="join_labels",
        predictions={{"name": "{model}_predictions", "window": "{month}"}}, labels={{"name": "flights_{model}"}},
        on=["flight"], label={{"name": "late", "expression": "arr_delay > 15"}}, on_missing="skip",
    )
    MonitorOperator(task_id="monitor", dataset=joined.output, window="{month}", trigger_rule="none_failed")
"""


def test_only_a_window_that_requests_retraining_emits_the_asset(run_dag, client, tmp_path):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    model = f"delays_{uuid.uuid4().hex[:8]}"

    def month(name: str, **how):
        data = flights(seed=int(name[-1]), **how)
        spec = ScoreSpec(model=model, dataset=scoring_set(store, data, name, f"scoring_{model}"))
        score.run(spec, StepContext(store=store))
        write(store, f"flights_{model}", data.select(["flight", "arr_delay"]), name)

    first = run_dag(DAG.format(model=model, month="2013-03"))
    assert first.states() == {"join_labels": "skipped", "monitor": "success"}
    ((uri, extra),) = first.asset_events()
    assert uri == f"mlops://{model}/retrain"
    assert extra["headline"] == f"Model {model!r} has no champion yet"

    promote(client, tmp_path, store, model)
    month("2013-04")
    quiet = run_dag(DAG.format(model=model, month="2013-04"))
    assert quiet.states() == {"join_labels": "success", "monitor": "success"}
    assert quiet.xcom("monitor")["decision"] == "healthy"
    assert quiet.asset_events() == []

    store.fs.rm(store.path(f"datasets/flights_{model}/windows"), recursive=True)
    month("2013-05", noise=8)
    loud = run_dag(DAG.format(model=model, month="2013-05"))
    ((uri, extra),) = loud.asset_events()
    assert uri == f"mlops://{model}/retrain"
    assert (extra["decision"], extra["metrics"]["rows"]) == ("retrain", 2_000)
    assert extra["window"].startswith("2013-05-01")
    assert (extra["request"]["id"], extra["request"]["reason"]) == (f"{model}/2013-05", extra["reason"])
    again = run_dag(DAG.format(model=model, month="2013-05"))
    assert again.xcom("monitor")["decision"] == "retrain"
    assert again.asset_events() == []


def test_an_invalid_policy_fails_when_the_dag_is_parsed():
    from airflow_mlops.operators import MonitorOperator

    with pytest.raises(SpecError, match="The policy of task 'm' cannot run as it is configured: tolerence"):
        MonitorOperator(task_id="m", model="delays", dataset=None, policy={"tolerence": 0.1})


def test_the_step_imports_no_training_library():
    heavy = (
        "sklearn",
        "scipy",
        "torch",
        "feast",
        "great_expectations",
        "airflow",
        "pandas",
        "matplotlib",
        "onnxruntime",
    )
    code = (
        f"import sys, airflow_mlops.stages.monitor.step; print([module for module in {heavy} if module in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
