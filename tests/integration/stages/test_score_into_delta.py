"""Scoring into a Delta table in S3 and in a folder, with a real MLflow registry: contents, versions, retries."""

from __future__ import annotations

import json
import logging
import uuid

import fsspec
import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import SpecError, TableError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.tables.delta.table import DeltaTable
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.score import scoring
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support import object_stores
from tests.support.deployed import flights, promote, scoring_set
from tests.support.killing import Killed, killed

deltalake = pytest.importorskip("deltalake")

SECRET = "geheim-4711"


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def do(store, champion, dataset, target, **fields):
    spec = ScoreSpec.model_validate({"model": champion.model, "dataset": dataset, "write_to": target, **fields})
    return score.run(spec, StepContext(store=store))


def test_the_table_in_s3_has_the_rows_of_all_versions(client, store, champion, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(scoring, "BATCH_ROWS", 7)
    with object_stores.s3() as url:
        endpoint = fsspec.config.conf["s3"]["client_kwargs"]["endpoint_url"]
        extra = {"endpoint_url": endpoint, "region_name": "eu-central-1"}
        info = {"conn_type": "aws", "login": "a", "password": SECRET, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(info))
        target = {"delta": f"{url}/predictions", "conn_id": "lake"}

        def content():
            options = {
                "aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_endpoint_url": endpoint,
                "aws_allow_http": "true", "aws_region": "eu-central-1",
            }  # fmt: skip
            return deltalake.DeltaTable(target["delta"], storage_options=options).to_pyarrow_table()

        def counts():
            found = content().group_by(["model_version", "dataset_name"]).aggregate([("flight", "count")])
            return sorted(tuple(row.values()) for row in found.to_pylist())

        rows = scoring_set(store, flights(20), "2013-04")
        result = do(store, champion, rows, target)
        assert result.written_to.model_dump() == {**target, "rows": 20}
        assert result.summary.endswith(f"Wrote 20 rows to Delta table {target['delta']!r}.")
        dataset = open_dataset(store, result.dataset)
        found, kept = content().sort_by("flight"), dataset.table().sort_by("flight")
        for name in ("flight", "time_hour", "prediction", "score"):
            assert found[name].to_pylist() == kept[name].to_pylist()
        (origin,) = found.group_by(
            ["window_start", "window_end", "model_name", "model_version", "dataset_name", "dataset_id", "dataset_created"]
        ).aggregate([]).to_pylist()  # fmt: skip
        manifest = dataset.manifest
        assert list(origin.values()) == [
            manifest.window.start, manifest.window.end, champion.model, champion.version,
            f"{champion.model}_predictions", manifest.id, manifest.created,
        ]  # fmt: skip
        newer = promote(client, tmp_path, store, champion.model)
        for _ in range(2):
            do(store, champion, rows, target, version=newer.version)
        do(store, champion, scoring_set(store, flights(3), "2013-05"), target, version=champion.version)
        assert counts() == [
            (champion.version, f"{champion.model}_predictions", 20),
            (champion.version, f"{champion.model}_shadow_predictions", 3),
            (newer.version, f"{champion.model}_shadow_predictions", 20),
        ]
    assert SECRET not in result.model_dump_json()
    assert SECRET not in caplog.text


def test_a_retry_completes_the_table_and_a_table_that_does_not_fit_is_refused(store, champion, tmp_path, monkeypatch):
    folder = str(tmp_path / "lake" / "predictions")
    rows = scoring_set(store, flights(20), "2013-04")
    spec = {"model": champion.model, "dataset": rows.model_dump(mode="json"), "write_to": {"delta": folder}}
    call = StepCall(
        step="score", spec=spec, store=store.url, key="results/d/r/score/-1/0-1.json", version=__version__,
        provenance=Provenance(dag_id="d", run_id="r", task_id="score"),
    )  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "replace", killed)
        with pytest.raises(Killed):
            run_call(call)
    result = run_call(call)
    assert result["written_to"]["rows"] == 20
    (current,) = PredictionLog(store, champion.model).entries()
    assert deltalake.DeltaTable(folder).to_pyarrow_table()["dataset_id"].to_pylist() == [current.id] * 20
    # A finished try is not repeated.
    version = deltalake.DeltaTable(folder).version()
    assert run_call(call) == result
    monkeypatch.setenv("AIRFLOW_CONN_HASH", json.dumps({"conn_type": "generic", "password": "a long secret key 123"}))
    with pytest.raises(TableError, match="Column 'flight' of Delta table .* has the type long"):
        do(store, champion, rows, {"delta": folder}, hash_columns=["flight"], hash_conn_id="hash")
    assert deltalake.DeltaTable(folder).version() == version
    monkeypatch.setenv("AIRFLOW_CONN_BI", json.dumps({"conn_type": "postgres", "host": "h"}))
    with pytest.raises(SpecError, match="'bi' has the type 'postgres'"):
        do(store, champion, rows, {"delta": "s3://lake/predictions", "conn_id": "bi"})
