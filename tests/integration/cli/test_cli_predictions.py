"""``airflow mlops predictions`` and ``airflow mlops purge`` in a real Airflow."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance

from airflow_mlops.cli.tables import _realised_row
from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.core.windows import Window
from airflow_mlops.data.datasets import DatasetWriter, open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.predictions.privacy import Privacy
from airflow_mlops.metrics.ranks import area
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.join_labels import step as join_labels
from airflow_mlops.stages.join_labels.spec import JoinLabelsSpec
from airflow_mlops.stages.predictions import query
from airflow_mlops.stages.predictions.query import summary
from airflow_mlops.stages.predictions.summary import MetricSummary, OutcomeSummary, QuantileSummary
from airflow_mlops.stages.score import step as score
from tests.integration.cli.test_cli import airflow  # noqa: F401 - a fixture
from tests.support.deployed import flights, write
from tests.support.predictions import join_delays, model_in_memory, score_rows


@pytest.fixture(scope="module")
def model():
    return model_in_memory()


@pytest.fixture
def log(store, model):
    """Predictions for April by v1 and v2, with labels for half of v2's rows, and for May by v2, scored twice."""
    data = flights(1_000, seed=5)
    by_v1 = score_rows(store, model, 1, "2013-04", data, dag_id="delays_score", run_id="r1", task_id="score")
    by_v2 = score_rows(store, model, 2, "2013-04", data)
    score_rows(store, model, 2, "2013-05", flights(300, seed=6))
    score_rows(store, model, 2, "2013-05", flights(200, seed=7))
    join_delays(store, by_v2.ref, data.slice(0, 500))
    return {"data": data, "by_v1": by_v1, "by_v2": by_v2}


def test_rows_without_a_prediction_are_counted_and_not_measured(store, model):
    data = flights(200, seed=5)
    wind = [None if number < 20 else value for number, value in enumerate(data["wind"].to_pylist())]
    data = data.set_column(data.column_names.index("wind"), "wind", pa.array(wind))
    scored = score_rows(store, model, 1, "2013-04", data)
    join_delays(store, scored.ref, data)
    found = summary(PredictionLog(store, "delays"), outcomes="delays_outcomes")
    (result,), (outcome,) = found.results, found.happened
    assert result.predicted["no prediction"] == 0.1
    assert sum(result.predicted.values()) == pytest.approx(1)
    assert (outcome.rows, outcome.labelled) == (200, 200)
    late, distance = data["arr_delay"].to_numpy()[20:] > 15, data["distance"].to_numpy()[20:]
    assert outcome.value == pytest.approx(area(late, distance).value)


def as_json(airflow, capsys, *words):  # noqa: F811
    airflow("predictions", "delays", "--json", *words)
    return json.loads(capsys.readouterr().out)


def test_predictions_are_summarised_as_json(airflow, log, capsys):  # noqa: F811
    output = as_json(airflow, capsys)
    data, scores = log["data"], 1 / (1 + np.exp(-log["data"]["distance"].to_numpy()))
    assert [(row["window"], row["version"], row["rows"], row["times"]) for row in output["how_many"]] == [
        ("2013-04", 1, 1_000, 1), ("2013-04", 2, 1_000, 1), ("2013-05", 2, 200, 2),
    ]  # fmt: skip
    for row in output["how_fast"]:
        assert row["rows_per_second"] > 0
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"]
        assert row["engine"].startswith("onnxruntime ")
    first = output["inputs"][0]
    assert first["run"] == "delays_score r1 score"
    assert (first["datasets"], first["predictions"]) == (log["by_v1"].parents, log["by_v1"].id)
    assert first["source"] == log["by_v1"].source["dataset"]
    features = {(row["version"], row["feature"]): row for row in output["features"]}
    assert features.keys() == {(version, name) for version in (1, 2) for name in ("distance", "wind")}
    assert features[1, "distance"]["mean"] == pytest.approx(data["distance"].to_numpy().mean())
    assert features[1, "wind"]["missing"] == 0
    v1, v2 = output["results"]
    assert (v1["rows"], v2["rows"]) == (1_000, 1_200)
    assert v1["score"]["min"] == pytest.approx(scores.min(), abs=1e-6)
    assert v1["score"]["p50"] == pytest.approx(np.median(scores), abs=0.02)
    assert v1["predicted"] == pytest.approx({"true": (scores >= 0.5).mean(), "false": (scores < 0.5).mean()})
    happened = {(row["window"], row["version"]): row for row in output["happened"]}
    late = data["arr_delay"].to_numpy()[:500] > 15
    found = happened["2013-04", 2]
    assert (found["rows"], found["labelled"], found["coverage"]) == (1_000, 500, 0.5)
    assert found["observed"] == pytest.approx({"true": late.mean(), "false": 1 - late.mean()})
    assert found["metric"] == "roc_auc"
    assert found["value"] == pytest.approx(area(late, scores[:500]).value, abs=1e-6)
    assert found["low"] < found["value"] < found["high"]
    # Labels joined to the predictions of v2 do not belong to those of v1.
    for key in (("2013-04", 1), ("2013-05", 2)):
        assert (happened[key]["labelled"], happened[key]["note"]) == (0, "no labels were joined to these predictions")


def test_predictions_of_a_window_are_printed_as_tables(airflow, log, capsys):  # noqa: F811
    assert {row["window"] for row in as_json(airflow, capsys, "--window", "2013-05")["how_many"]} == {"2013-05"}
    airflow("predictions", "delays", "--window", "2013-04")
    table = capsys.readouterr().out
    for text in (
        "Predictions", "Speed", "Inputs", "Features", "Results", "Realised performance",
        "1,000", "distance", "500 of 1,000 (50.0%)", "roc_auc 0.", "delays_score r1 score", log["by_v1"].id[:12],
    ):  # fmt: skip
        assert text in table, table
    assert "2013-05" not in table


def test_the_files_contain_exactly_the_current_predictions(airflow, log, capsys, store):  # noqa: F811
    store.write_bytes("datasets/delays_predictions/files/window=2013-05/version=2/orphan.parquet", b"left behind")
    airflow("predictions", "delays", "--files")
    urls = capsys.readouterr().out.split()
    assert sum(pq.read_metadata(url.removeprefix("file://")).num_rows for url in urls) == 2_200
    assert urls == PredictionLog(store, "delays").files() == as_json(airflow, capsys, "--files")
    airflow("predictions", "delays", "--files", "--window", "2013-05")
    (url,) = capsys.readouterr().out.split()
    assert "/window=2013-05/version=2/" in url


def test_dropped_columns_and_purged_predictions_are_shown(airflow, log, capsys, store, model):  # noqa: F811
    rows = open_dataset(store, write(store, "scoring", flights(50), "2013-06"))
    score.score(
        [rows], model, ModelVersionRef(model="delays", version=3, run_id="r"), name="delays_predictions", part=None,
        window=rows.manifest.window, context=StepContext(store), privacy=Privacy([], ["wind"]),
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        airflow("purge", "delays", "--older-than", "never")
    assert "--older-than: 'never'" in str(ended.value.code)
    for entry in PredictionLog(store, "delays").history(Window.model_validate("2013-04")):
        key = f"datasets/delays_predictions/manifests/{entry.id}.json"
        old = datetime.now(timezone.utc) - timedelta(days=100)
        store.write_json(key, {**store.read_json(key), "created": old.isoformat()})
    airflow("purge", "delays", "--older-than", "90D", "--dry-run")
    assert "Would delete 2 datasets of predictions of delays" in capsys.readouterr().out
    assert as_json(airflow, capsys)["how_many"][0]["deleted"] is None
    airflow("purge", "delays", "--older-than", "90D")
    assert "Deleted 2 datasets of predictions of delays" in capsys.readouterr().out
    output = as_json(airflow, capsys)
    assert [row["deleted"] is not None for row in output["how_many"]] == [True, True, False, False]
    assert [(row["window"], row["version"]) for row in output["happened"]] == [("2013-05", 2), ("2013-06", 3)]
    assert [row["kept"] for row in output["features"] if row["version"] == 3] == ["yes", "dropped"]
    airflow("predictions", "delays")
    table = capsys.readouterr().out
    assert "deleted" in table
    assert f"{datetime.now(timezone.utc):%Y-%m-%d}" in table
    with pytest.raises(SystemExit) as ended:
        airflow("predictions", "delays", "--files", "--window", "2013-04")
    assert "'delays' in the window 2013-04 were deleted" in str(ended.value.code)


def test_errors_are_printed_on_one_line(airflow, log):  # noqa: F811
    for words, problem in (
        (("predictions", "nothing"), "'nothing_predictions'"),
        (("predictions", "delays", "--window", "2014"), "'delays' in the window 2014"),
        (("predictions", "delays", "--window", "soon"), "'soon'"),
        (
            ("purge", "delays", "--older-than", "1D", "--outcomes", "flights"),
            "Dataset 'flights' ",
        ),
    ):
        with pytest.raises(SystemExit) as ended:
            airflow(*words)
        assert problem in str(ended.value.code)
        assert "\n" not in str(ended.value.code)


def test_windows_that_were_joined_together_are_one_row_for_each_version(store, model):
    data = flights(100, seed=1)
    score_rows(store, model, 1, "2013-04", data)
    score_rows(store, model, 1, "2013-05", data)
    score_rows(store, model, 2, "2013-06", data)
    join_delays(store, {"name": "delays_predictions", "window": "2013-04..2013-06"}, data)
    found = summary(PredictionLog(store, "delays"), "delays_outcomes").happened
    assert [(row.version, row.rows, row.labelled) for row in found] == [(1, 200, 200), (2, 100, 100)]
    assert {row.window for row in found} == {"2013-Q2"}


def test_labels_of_a_part_are_not_those_of_the_whole_dataset(store, model):
    data = flights(10)
    times = pa.array([datetime(2013, 4, 1 + 3 * day, tzinfo=timezone.utc) for day in range(10)], data["time_hour"].type)
    data = data.set_column(data.schema.get_field_index("time_hour"), "time_hour", times)
    score_rows(store, model, 1, "2013-04", data)

    def happened() -> dict:
        found = summary(PredictionLog(store, "delays"), "delays_outcomes").happened
        return {Window.model_validate(row.window): (row.rows, row.labelled) for row in found}

    early, late = map(Window.model_validate, ("2013-04-01..2013-04-09", "2013-04-10..2013-04-30"))
    for part in (early, late):
        join_delays(store, {"name": "delays_predictions", "window": part}, data)
    assert happened() == {early: (3, 3), late: (7, 7)}
    join_delays(store, {"name": "delays_predictions", "window": "2013-04"}, data.slice(1))
    # Labels joined later to a part of the dataset do not replace the labels of the whole dataset.
    join_delays(store, {"name": "delays_predictions", "window": early}, data)
    assert happened() == {Window.model_validate("2013-04"): (10, 9)}


@pytest.mark.parametrize("labels", [None, ["much"] * 3])
def test_labels_are_counted_even_if_performance_cannot_be_measured(store, model, labels, monkeypatch):
    monkeypatch.setattr(query, "BATCH_ROWS", 1)
    made = score_rows(store, model, 1, "2013-04", flights(3))
    values = pa.array(labels or [None] * 3, pa.string())
    truth = write(store, "flights", pa.table({"flight": [0, 1, 2], "late": values}), "2013")
    spec = {"predictions": made.ref, "labels": truth, "on": ["flight"], "label": "late", "name": "delays_outcomes"}
    join_labels.run(JoinLabelsSpec(**spec), StepContext(store))
    (found,) = summary(PredictionLog(store, "delays"), "delays_outcomes").happened
    assert (found.rows, found.labelled, found.metric) == (3, len(labels or []), None)
    assert ("'much'" if labels else "there are no labels") in found.note


def write_predictions(store, task: str, classes: list, *, labels=None, metrics=None, **columns) -> None:
    """Predictions and outcomes of another kind of model, as scoring and joining write them."""
    rows = len(columns["score"])
    table = pa.table({**columns, "model_version": [1] * rows, "latency_ms": [0.1] * rows})
    details = {
        "model": "other", "model_version": 1, "task": task, "classes": classes, "positive": True, "engine": "x",
        "features": [name for name in columns if name.startswith("f")],
    } | ({} if metrics is None else {"metrics": metrics})  # fmt: skip
    with DatasetWriter(store, "other_predictions") as writer:
        writer.write(table)
        made = writer.commit(window=Window.model_validate("2013-04"), details=details, slots=["april"])[0]
    with DatasetWriter(store, "other_outcomes") as writer:
        writer.write(table.append_column("label", table["prediction"] if labels is None else pa.array(labels)))
        writer.commit(window=made.window, details={**details, "label": "y"}, parents=[made.ref], slots=[made.id])


def test_regressions_multiclass_models_and_unusual_columns_are_summarised(store):
    write_predictions(
        store, "regression", [], f_null=pa.nulls(4), f_time=pa.array([0, 1, 2, 3], pa.timestamp("s")),
        f_text=["a", "a", None, "b"], f_inf=[1.0, float("inf"), None, 3.0], prediction=[1.0, 2.0, 3.0, 6.0],
        score=[1.0, 2.0, 3.0, 6.0],
    )  # fmt: skip
    answers = summary(PredictionLog(store, "other"), "other_outcomes")
    assert {row.feature: (row.mean, row.most_frequent, row.share, row.missing) for row in answers.features} == {
        "f_null": (None, None, None, 1.0),
        "f_time": (None, None, None, 0.0),
        "f_text": (None, "a", 0.5, 0.25),
        "f_inf": (2.0, None, None, 0.5),
    }
    (result,), (happened,) = answers.results, answers.happened
    assert (result.predicted, result.score["max"]) == ({}, 6.0)
    assert (happened.observed, happened.metric, happened.value) == ({"mean": 3.0}, "rmse", 0.0)
    write_predictions(store, "multiclass", [0, 1, 2], prediction=[2, 2, 0, 1], score=[0.9, 0.8, 0.7, 0.6])
    answers = summary(PredictionLog(store, "other"), "other_outcomes")
    assert answers.results[0].predicted == {"2": 0.5, "0": 0.25, "1": 0.25}
    assert (answers.happened[0].metric, answers.happened[0].value) == ("accuracy", 1.0)
    json.loads(answers.model_dump_json())


def test_a_model_that_predicts_labels_only_has_an_accuracy(store):
    labels = [True, False] * 20
    write_predictions(store, "binary", [False, True], prediction=labels, score=[float(label) for label in labels])
    (happened,) = summary(PredictionLog(store, "other"), "other_outcomes").happened
    assert (happened.metric, happened.value) == ("accuracy", 1.0)


def test_a_quantile_has_its_pinball_loss_and_its_coverage_instead_of_rmse(store, airflow, capsys):  # noqa: F811
    labels = np.arange(100.0)
    write_predictions(
        store, "regression", [], labels=labels, metrics=["rmse", "mae", "pinball_a0.9", "quantile_coverage_gap_a0.9"],
        prediction=[79.0] * 100, score=[79.0] * 100,
    )  # fmt: skip
    (found,) = summary(PredictionLog(store, "other"), "other_outcomes").happened
    loss = mean_pinball_loss(labels, np.full(100, 79.0), alpha=0.9)
    assert (found.metric, found.value, found.others) == ("pinball_a0.9", pytest.approx(loss), [])
    assert (found.quantile.alpha, found.quantile.value) == (0.9, 0.8)
    assert found.quantile.low < 0.8 < found.quantile.high < 0.9
    airflow("predictions", "other")
    table = " ".join(capsys.readouterr().out.split())
    assert "pinball_a0.9" in table
    assert "nominal 0.9" in table
    assert "rmse" not in table


def test_small_values_are_not_rounded_to_zero():
    quantile = QuantileSummary(alpha=0.9, value=0.88, low=0.85, high=0.9)
    outcome = OutcomeSummary(
        window="2013-04", version=1, rows=9, labelled=9, metric="pinball_a0.9", value=1.2345e-5, low=1e-5, high=15226.7,
        others=[MetricSummary(metric="mase", note="no column"), MetricSummary(metric="rmse", value=2, low=1, high=3)],
        quantile=quantile,
    )  # fmt: skip
    assert _realised_row(outcome)["metric (interval)"].split("; ") == [
        "pinball_a0.9 1.23e-05 (1e-05 to 15,227)", "no column", "rmse 2 (1 to 3)",
        "share of labels at most the prediction 0.88 (0.85 to 0.9), nominal 0.9",
    ]  # fmt: skip


def test_forecasts_counts_rankings_and_costs_have_their_own_metrics(store):
    answers = {"prediction": [2.0, 4.0], "score": [2.0, 4.0]}

    def shown(task="regression", classes=(), **columns) -> dict:
        write_predictions(store, task, [*classes], **{**answers, **columns})
        (found,) = summary(PredictionLog(store, "other"), "other_outcomes").happened
        assert found.quantile is None
        return {found.metric or found.note: found.value, **{item.metric: item.value for item in found.others}}

    forecast = {"labels": [1.0, 4.0], "metrics": ["rmse", "mase", "smape"]}
    found = shown(**forecast, mase_scale=[0.5, 2.0], seasonal_naive=[1.0, 1.0])
    assert [*found] == ["mase", "smape", "rmse"]
    assert found["mase"] == 1.0
    # Without the column, the metric is missing. No other metric is reported under its name.
    found = shown(**forecast)
    assert "'mase_scale'" in next(iter(found))
    assert [*found][1:] == ["smape", "rmse"]
    counts = shown(labels=[1, 4], metrics=["rmse", "poisson_deviance"])
    assert counts["poisson_deviance"] == pytest.approx(mean_poisson_deviance([1, 4], answers["score"]))
    assert [*counts] == ["poisson_deviance", "rmse"]
    # The scores of a ranking are not in the unit of the label.
    ranked = shown(labels=[0, 1], metrics=["rmse", "ndcg_k10_by-query"], query=["a", "a"])
    assert [*ranked] == ["ndcg_k10_by-query"]
    labels = [True, False] * 10
    costs = shown(
        "binary", [False, True], labels=labels, metrics=["roc_auc", "expected_cost_fp1_fn20"],
        prediction=[True, True] * 10, score=[0.9, 0.6] * 10,
    )  # fmt: skip
    assert costs == {"roc_auc": 1.0, "expected_cost_fp1_fn20": 0.5}


def test_scoring_logs_which_metrics_were_measured_at_training(store, model, monkeypatch):
    measured = {"roc_auc": 0.8, "expected_cost_fp1_fn20": 0.4, "ece": 0.1}
    monkeypatch.setattr(model, "contract", model.contract.model_copy(update={"metrics": measured}))
    made = score_rows(store, model, 1, "2013-04", flights(20, seed=1))
    assert made.details["metrics"] == ["roc_auc", "expected_cost_fp1_fn20"]


@pytest.mark.parametrize("command", [("predictions",), ("purge", "--older-than", "90D")])
def test_outcomes_that_do_not_exist_are_an_error(command, airflow, log):  # noqa: F811
    with pytest.raises(SystemExit) as ended:
        airflow(command[0], "delays", *command[1:], "--outcomes", "dealys_outcomes")
    assert "'dealys_outcomes'" in str(ended.value.code)
    assert "--outcomes" in str(ended.value.code)
