"""Scoring into a table of a database, with a real MLflow registry: contents, versions, retries and refusals."""

from __future__ import annotations

import json
import logging
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from airflow_mlops import __version__
from airflow_mlops.core.calls import Provenance, StepCall
from airflow_mlops.core.errors import SpecError, TableError
from airflow_mlops.data.datasets import open_dataset
from airflow_mlops.data.predictions.log import PredictionLog
from airflow_mlops.data.tables.database.base import Table
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.runner import run_call
from airflow_mlops.stages.score import scoring
from airflow_mlops.stages.score import step as score
from airflow_mlops.stages.score.spec import ScoreSpec
from tests.support.deployed import flights, promote, scoring_set, write
from tests.support.killing import Killed, killed

SECRET = "geheim-4711"
TARGET = {"conn_id": "bi", "table": "predictions"}
DOCS = Path(__file__).parents[3] / "docs/operators/score.md"


@pytest.fixture
def bi(tmp_path, monkeypatch):
    """Run a query on the database of the connection ``bi``."""
    file = tmp_path / "bi.db"
    sqlite3.connect(file).close()
    info = {"conn_type": "sqlite", "host": str(file), "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_BI", json.dumps(info))

    def bi(sql):
        with closing(sqlite3.connect(file)) as connection, connection:
            return connection.execute(sql).fetchall()

    return bi


@pytest.fixture
def champion(client, store, tmp_path):
    return promote(client, tmp_path, store, f"delays_{uuid.uuid4().hex[:8]}")


def do(store, champion, dataset, **fields):
    spec = ScoreSpec.model_validate({"model": champion.model, "dataset": dataset, "write_to": TARGET, **fields})
    return score.run(spec, StepContext(store=store))


def test_the_table_has_the_rows_of_all_versions_and_the_view_the_current_predictions(
    client, store, champion, bi, tmp_path, monkeypatch
):
    monkeypatch.setattr(scoring, "BATCH_ROWS", 7)
    rows = scoring_set(store, flights(20), "2013-04")
    result = do(store, champion, rows)
    assert result.written_to.model_dump() == {**TARGET, "rows": 20}
    assert result.summary.endswith("Wrote 20 rows to table 'predictions' of connection 'bi'.")
    assert SECRET not in result.model_dump_json()
    dataset = open_dataset(store, result.dataset)
    table = dataset.table()
    names = "flight, prediction, score"
    assert bi(f"SELECT {names} FROM predictions ORDER BY flight") == [
        tuple(row.values()) for row in table.select(names.split(", ")).to_pylist()
    ]
    origin = bi(
        "SELECT DISTINCT time_hour, window_start, window_end, model_name, model_version, dataset_name, dataset_id FROM predictions"
    )
    assert origin == [
        (
            "2013-04-03 14:40:00.000000", "2013-04-01 00:00:00.000000", "2013-05-01 00:00:00.000000", champion.model,
            champion.version, f"{champion.model}_predictions", dataset.manifest.id,
        )
    ]  # fmt: skip
    # Another version in the shadow, then as the champion of a second run of the window.
    newer = promote(client, tmp_path, store, champion.model)
    do(store, champion, rows, version=newer.version)
    do(store, champion, rows, version=newer.version)
    counts = "SELECT model_version, dataset_name, count(*) FROM predictions GROUP BY 1, 2 ORDER BY 1, 2"
    shadow = (newer.version, f"{champion.model}_shadow_predictions", 20)
    assert bi(counts) == [(champion.version, f"{champion.model}_predictions", 20), shadow]
    client.set_registered_model_alias(champion.model, "champion", str(newer.version))
    do(store, champion, rows)
    assert bi(counts)[1:] == [(newer.version, f"{champion.model}_predictions", 20), shadow]
    # The statement in the docs.
    bi(DOCS.read_text().split("```sql")[1].split("```")[0])
    current = bi("SELECT model_version, dataset_name, count(*) FROM current_predictions GROUP BY 1, 2 ORDER BY 2")
    assert current == [(newer.version, f"{champion.model}_predictions", 20), shadow]
    # After a rollback, the older version has scored last.
    client.set_registered_model_alias(champion.model, "champion", str(champion.version))
    do(store, champion, rows)
    assert bi("SELECT DISTINCT model_version FROM current_predictions WHERE dataset_name NOT LIKE '%shadow%'") == [
        (champion.version,)
    ]


def test_a_retry_completes_the_table_after_a_crash_between_the_two_commits(store, champion, bi, monkeypatch, caplog):
    rows = scoring_set(store, flights(20), "2013-04")
    call = StepCall(
        step="score", spec={"model": champion.model, "dataset": rows.model_dump(mode="json"), "write_to": TARGET},
        store=store.url, key="results/d/r/score/-1/0-1.json", version=__version__,
        provenance=Provenance(dag_id="d", run_id="r", task_id="score"),
    )  # fmt: skip

    with monkeypatch.context() as patched:
        patched.setattr(Table, "replace", killed)
        with pytest.raises(Killed):
            run_call(call)
    assert len(PredictionLog(store, champion.model).history()) == 1
    caplog.set_level(logging.INFO)
    result = run_call(call)
    assert result["written_to"]["rows"] == 20
    (current,) = PredictionLog(store, champion.model).entries()
    assert bi("SELECT dataset_id, count(*) FROM predictions GROUP BY 1") == [(current.id, 20)]
    # A finished try is not repeated.
    bi("DELETE FROM predictions")
    assert run_call(call) == result
    assert bi("SELECT count(*) FROM predictions") == [(0,)]
    assert SECRET not in caplog.text


def test_a_row_without_a_prediction_has_nulls(store, champion, bi):
    wind = [None, *flights(20)["wind"].to_pylist()[1:]]
    do(store, champion, scoring_set(store, flights(20).set_column(3, "wind", pa.array(wind)), "2013-04"))
    assert bi("SELECT flight, prediction, score FROM predictions WHERE prediction IS NULL OR score IS NULL") == [
        (0, None, None)
    ]


def test_hashed_and_dropped_columns_and_refusals(store, champion, bi, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_HASH", json.dumps({"conn_type": "generic", "password": "a long secret key 123"}))
    data = flights(3)
    rows = scoring_set(store, data, "2013-04")
    do(store, champion, rows, hash_columns=["flight"], drop_columns=["time_hour"], hash_conn_id="hash")
    assert [column[1] for column in bi("PRAGMA table_info(predictions)")][:3] == ["flight", "prediction", "score"]
    assert all(len(flight) > 20 for (flight,) in bi("SELECT flight FROM predictions"))
    before = bi("SELECT * FROM predictions")
    with pytest.raises(TableError, match="Column 'flight' of table 'predictions' of connection 'bi' has the type TEXT"):
        do(store, champion, rows)
    assert bi("SELECT * FROM predictions") == before
    history = len(PredictionLog(store, champion.model).history())
    with pytest.raises(SpecError, match="'raw' has no window. Set `window`"):
        do(store, champion, write(store, "raw", data))
    with pytest.raises(SpecError, match="'keyless' has no keys"):
        do(store, champion, write(store, "keyless", data, "2013-05"))
    with pytest.raises(SpecError, match="'scoring' has no keys"):
        do(store, champion, rows, drop_columns=["flight"])
    assert len(PredictionLog(store, champion.model).history()) == history
