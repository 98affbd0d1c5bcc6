"""``airflow mlops models``, ``status`` and ``index`` in a real Airflow."""

from __future__ import annotations

import json
import uuid

import pyarrow as pa
import pytest

from airflow_mlops.data.datasets import DatasetWriter
from airflow_mlops.overview import sections
from tests.integration.cli.test_cli import airflow  # noqa: F401 - a fixture
from tests.support import reports
from tests.support.models import promote, score


@pytest.fixture
def filled(store):
    promote(store, 1)
    promote(store, 2, reason="It snows <b>less</b>.")
    reports.publish(store, "2013-03")
    reports.publish(store, "2013-04", "watch")
    score(store, "2013-05", 2)
    reports.publish(store, "2013-04", "retrain", model="other")
    return store


def test_all_models_are_listed(airflow, filled, capsys):  # noqa: F811
    airflow("models", "--output", "json")
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert set(found) == {"delays", "other"}
    assert found["delays"]["champion"]["version"] == 2
    assert found["other"]["monitoring"]["verdict"] == "retrain"
    airflow("models")
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("delays")]
    for fact in ("v2", "2013-04", "watch", "2013-05"):
        assert fact in row


def test_a_model_is_shown_as_in_the_api(airflow, filled, capsys):  # noqa: F811
    airflow("status", "delays")
    output = capsys.readouterr().out
    for fact in ("It snows <b>less</b>.", "2013-03", "2013-04", "promoted", "ann", "For a test."):
        assert fact in output
    airflow("status", "delays", "--output", "json")
    facts = json.loads(capsys.readouterr().out)
    assert [point["window"]["label"] for point in facts["windows"]] == ["2013-03", "2013-04"]
    assert [item["seq"] for item in facts["decisions"]] == [2, 1]


def test_a_broken_ledger_is_an_error_after_the_facts(airflow, filled, capsys):  # noqa: F811
    key = "ledger/delays/00000001.json"
    filled.write_bytes(key, filled.read_bytes(key).replace(b"better", b"worse"))
    with pytest.raises(SystemExit) as ended:
        airflow("status", "delays")
    assert ended.value.code == 1
    output = capsys.readouterr()
    assert "2013-04" in output.out
    assert "entry 1" in output.err


def test_an_unknown_model_and_an_empty_store_are_reported(airflow, store, capsys):  # noqa: F811
    with pytest.raises(SystemExit, match="'delays'"):
        airflow("status", "delays")
    airflow("models")
    assert store.url in capsys.readouterr().out


def test_the_index_is_written_again(airflow, filled, capsys):  # noqa: F811
    airflow("models", "--output", "json")
    filled.write_json(sections.key("delays", "decisions"), {"model": "delays"})
    airflow("index")
    airflow("models", "--output", "json")
    assert '"version": 2' in capsys.readouterr().out


def test_the_index_finds_versions_that_were_only_trained(airflow, store, client, mlflow_connection, capsys):  # noqa: F811
    with DatasetWriter(store, "rows") as writer:
        writer.write(pa.table({"x": [1]}))
        dataset = writer.commit()[0].ref.id
    name = f"trained_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(name)
    # Version 4 was trained on rows of another store.
    for dag_id, trained_on in (("daily", dataset), ("weekly", dataset), ("daily", dataset), ("weekly", "0" * 64)):
        tags = {"mlops.dag_id": dag_id, "mlops.dataset_name": "rows", "mlops.dataset": trained_on}
        run = client.create_run("0", tags=tags).info
        client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    # The model of another team. The run of its version was deleted permanently.
    others = f"o'brien_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(others)
    client.create_model_version(others, "s3://b/model", "0" * 32)
    airflow("index")
    assert name in capsys.readouterr().out
    airflow("models", "--output", "json")
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}[name]
    assert (found["candidate"]["version"], found["dags"]["train"]) == (3, ["daily", "weekly"])
