"""Batch scoring with a champion in a real MLflow registry, as a step and as a task of a DAG."""

from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import datetime, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from airflow_mlops.core.errors import DatasetNotFoundError, RegistryError, SchemaError, SpecError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.score import scoring
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import FEATURES, flights, promote, scoring_set, write


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def do(store, champion, dataset, **fields):
    return score.run(ScoreSpec(model=champion.model, dataset=dataset, **fields), StepContext(store=store))


def test_predictions_contain_keys_features_version_time_and_latency(store, champion):
    data = flights()
    result = do(store, champion, scoring_set(store, data, "2013-04"))
    assert result.scored_by == champion
    assert result.engine.startswith("onnxruntime ")
    assert "2,000 rows of 2013-04" in result.summary
    assert result.engine in result.summary
    dataset = open_dataset(store, result.dataset)
    assert (dataset.manifest.name, dataset.manifest.window.label) == (f"{champion.model}_predictions", "2013-04")
    found = dataset.table()
    assert found.column_names == [
        "flight", "time_hour", *FEATURES,
        "prediction", "score", "model_name", "model_version", "scored_at", "latency_ms",
    ]  # fmt: skip
    assert found.select(["flight", *FEATURES]).equals(data.select(["flight", *FEATURES]))
    expected = 1 / (1 + np.exp(-data["distance"].to_numpy()))
    np.testing.assert_allclose(found["score"].to_numpy(), expected, atol=1e-6)
    assert found["prediction"].to_pylist() == (found["score"].to_numpy() >= 0.5).tolist()
    assert found["model_name"].unique().to_pylist() == [champion.model]
    assert found["model_version"].unique().to_pylist() == [champion.version]
    assert pc.max(found["scored_at"]).as_py() <= datetime.now(timezone.utc)
    assert pc.min(found["latency_ms"]).as_py() > 0
    details = dataset.manifest.details
    assert (details["model_version"], details["keys"], details["features"]) == (
        champion.version,
        ["flight"],
        list(FEATURES),
    )


def test_predictions_are_not_recorded_for_another_window_than_that_of_their_rows(store, champion):
    dataset = scoring_set(store, flights(10), "2013-04")
    with pytest.raises(SpecError, match="are of 2013-04"):
        do(store, champion, dataset, window="2013-05")
    assert do(store, champion, dataset, window="2013-04-01/P1M").dataset.rows == 10


def test_batches_keep_the_order_of_rows_and_missing_values_are_scored(store, champion, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 97)
    data = flights()
    holes = pa.array([None if index % 3 else value for index, value in enumerate(data["wind"].to_pylist())])
    data = data.set_column(3, "wind", holes)
    result = do(store, champion, scoring_set(store, data, "2013-04"))
    found = open_dataset(store, result.dataset).table()
    assert found["flight"].to_pylist() == list(range(2_000))
    assert found["wind"].null_count == holes.null_count
    assert len(found["scored_at"].unique()) > 10
    # The model returns NaN for a row without wind.
    for name in ("prediction", "score"):
        assert found[name].is_null().to_pylist() == holes.is_null().to_pylist()


def test_a_part_and_several_windows_of_a_name_can_be_scored(store, champion):
    for month in ("2013-04", "2013-05"):
        scoring_set(store, flights(300, seed=int(month[-1])), month)
    result = do(store, champion, {"name": "scoring", "window": "2013-04..2013-05"}, name="both")
    assert (result.dataset.rows, result.dataset.window.label) == (600, "2013-04-01T00:00:00Z/2013-06-01T00:00:00Z")
    raw = write(store, "raw", flights(10))
    predictions = open_dataset(store, do(store, champion, raw, part="data", window="2013-07").dataset)
    # The dataset has no keys in its manifest, so all columns are copied.
    assert "arr_delay" in predictions.schema.names
    assert predictions.manifest.window.label == "2013-07"
    with pytest.raises(DatasetNotFoundError, match="'test'.* data"):
        do(store, champion, raw, part="test")


def test_an_event_time_that_is_text_becomes_a_time_and_other_text_is_named(store, champion, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 97)
    data = flights()
    forms = ("2013-04-01 06:30:00+00", "2013-04-01T06:30", "2013-04-01T07:30+01:00", None)
    texts = pa.array([forms[row % 4] for row in range(data.num_rows)])
    place = data.schema.get_field_index("time_hour")
    result = do(store, champion, scoring_set(store, data.set_column(place, "time_hour", texts), "2013-04"))
    found = open_dataset(store, result.dataset).table()["time_hour"]
    assert found.unique().to_pylist() == [datetime(2013, 4, 1, 6, 30, tzinfo=timezone.utc), None]
    wrong = pa.array(["2013-04-01"] * 500 + ["4/1/2013"] * (data.num_rows - 500))
    with pytest.raises(SchemaError, match="'time_hour' .*'4/1/2013' in row 501"):
        do(store, champion, scoring_set(store, data.set_column(place, "time_hour", wrong), "2013-05"))


def test_the_predictions_of_an_empty_window_have_all_columns(store, champion):
    result = do(store, champion, scoring_set(store, flights(5).slice(0, 0), "2013-04"))
    dataset = open_dataset(store, result.dataset)
    assert dataset.table().num_rows == 0
    assert dataset.schema.field("prediction").type == pa.bool_()


def test_missing_changed_and_reserved_columns_are_named(store, champion):
    data = flights(10)
    with pytest.raises(SchemaError, match=f"'gone' .*'wind'.*{champion}"):
        do(store, champion, write(store, "gone", data.drop_columns(["wind"])))
    changed = data.set_column(3, "wind", pa.array(["strong"] * 10))
    with pytest.raises(SchemaError, match="'wind' .*numeric.*string"):
        do(store, champion, write(store, "changed", changed))
    with pytest.raises(SchemaError, match="'taken' .*'score'"):
        do(store, champion, write(store, "taken", data.append_column("score", data["wind"])))
    assert not store.keys(f"datasets/{champion.model}_predictions/files")


def test_without_a_champion_scoring_fails_or_is_skipped_as_configured(store, client):
    dataset = scoring_set(store, flights(10), "2013-04")
    spec = {"model": "nobody", "dataset": dataset}
    with pytest.raises(RegistryError, match="'nobody' has no champion"):
        score.run(ScoreSpec(**spec), StepContext(store=store))
    result = score.run(ScoreSpec(**spec, on_missing="skip"), StepContext(store=store))
    assert result.dataset is None
    assert "'nobody' has no champion" in result.summary


DAG = """
from airflow.sdk import DAG, Asset
from airflow_mlops.operators import ScoreOperator

with DAG("score_{model}", default_args={{"model": "{model}"}}):
    ScoreOperator(
        task_id="score", dataset={{"name": "scoring_{model}", "window": "2013-04"}}, on_missing="{on_missing}",
        outlets=[Asset("mlops://{model}/predictions")],
    )
"""


def test_a_task_scores_and_sends_its_dataset_to_downstream_dags(run_dag, client, tmp_path, capfd):
    from airflow_mlops.settings import default_store

    store = ArtifactStore(default_store())
    version = promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")
    scoring_set(store, flights(100), "2013-04", f"scoring_{version.model}")
    run = run_dag(DAG.format(model=version.model, on_missing="fail"))
    assert run.states() == {"score": "success"}
    result = run.xcom("score")
    assert result["dataset"]["rows"] == 100
    ((uri, extra),) = run.asset_events()
    assert uri == f"mlops://{version.model}/predictions"
    assert extra["dataset"]["id"] == result["dataset"]["id"]
    assert "100 rows of 2013-04" in capfd.readouterr().out


@pytest.mark.parametrize(("on_missing", "state"), [("skip", "skipped"), ("fail", "failed")])
def test_a_task_without_a_champion_is_skipped_or_fails(on_missing, state, run_dag, client, capfd):
    from airflow_mlops.settings import default_store

    model = f"nobody_{on_missing}"
    scoring_set(ArtifactStore(default_store()), flights(10), "2013-04", f"scoring_{model}")
    assert run_dag(DAG.format(model=model, on_missing=on_missing)).states() == {"score": state}
    assert f"{model}' has no champion" in capfd.readouterr().out


def test_the_step_imports_no_training_library():
    heavy = ("sklearn", "scipy", "torch", "feast", "great_expectations", "airflow", "skl2onnx", "matplotlib")
    code = f"""
import sys, airflow_mlops.stages.score.step
# MLflow imports pandas when a model is read.
found = [module for module in ("pandas", "mlflow") if module in sys.modules]
import airflow_mlops.registry.client, onnxruntime
print(found + [module for module in {heavy} if module in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
