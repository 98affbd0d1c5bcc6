"""Requests for retraining in a real Airflow: between DAGs with and without partitions, unanswered, and sent again."""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from itertools import product
from typing import Any

import pyarrow as pa
import pytest

from airflow_mlops.core.windows import Window
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.requests import read_answer, recorded_requests
from tests.support.deployed import write
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

DAGS = """
from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, PartitionedAtRuntime, task
from airflow_mlops.operators import BuildTrainingSetOperator, MonitorOperator

for name, schedule in (("monitor_keyed", PartitionedAtRuntime()), ("monitor_plain", None)):
    with DAG(name, schedule=schedule, catchup=False, params={"model": "", "window": ""}):
        MonitorOperator(
            task_id="monitor", model="{{ params.model }}", dataset=None, window="{{ params.window }}", policy={"cooldown": "60D"}
        )

for model in ("keyed_keyed", "keyed_plain", "plain_keyed", "plain_plain", "paused"):
    wanted = Asset(f"mlops://{model}/retrain")
    schedule = [wanted] if model.endswith("_plain") else PartitionedAssetTimetable(assets=wanted)
    with DAG(
        f"train_{model}", schedule=schedule, catchup=False, params={"window": ""}, is_paused_upon_creation=model == "paused"
    ):
        BuildTrainingSetOperator(
            task_id="build", name=f"{model}_training", timestamp="at", columns=["x"], split=None,
            entities={"name": "months", "window": "2024-01..{{ mlops_request.window or partition_key or params.window }}"},
        )

champion = Asset("mlops://promoted/champion")
with DAG("promote_keyed", schedule=PartitionedAtRuntime(), catchup=False):

    @task(outlets=[champion])
    def promote(outlet_events):
        outlet_events[champion].extra = {"version": 7, "replaced": None}

    promote()
# The template of dags/flights_deploy.py.
CHAMPION = "{{ (triggering_asset_events.values() | list)[0][-1].extra.version if triggering_asset_events else params.version }}"
with DAG("deploy_plain", schedule=[champion], catchup=False, params={"version": None}):

    @task
    def deploy(version, triggering_asset_events):
        return [version, len(triggering_asset_events)]

    deploy(CHAMPION)
"""
MODELS = [f"{monitor}_{train}" for monitor, train in product(("keyed", "plain"), repeat=2)]


@pytest.fixture(scope="module")
def store(airflow: LiveAirflow) -> ArtifactStore:
    return ArtifactStore(f"file://{airflow.home}/artifacts")


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow, store: ArtifactStore) -> None:
    for month in range(1, 8):
        window = Window.model_validate(f"2024-{month:02}")
        rows = pa.table({"at": [window.start + timedelta(days=day) for day in range(20)], "x": [float(month)] * 20})
        write(store, "months", rows, str(window))
    (airflow.dags / "requests.py").write_text(DAGS)
    for model in [*MODELS, "paused"]:
        airflow.parsed(f"train_{model}")


def start(airflow: LiveAirflow, model: str, window: str, partition_key: str | None = None) -> tuple[str, str]:
    """Start a check in the DAG for models with this name, and return the ids of the DAG and the run."""
    dag = "monitor_plain" if model.startswith("plain") else "monitor_keyed"
    key = partition_key if dag == "monitor_keyed" else None
    return dag, airflow.trigger(dag, {"model": model, "window": window}, key)


def finished(airflow: LiveAirflow, dag: str, run: str) -> dict[str, Any]:
    airflow.wait_for_success(dag, run, 600)
    return dict(airflow.xcom(dag, run, "monitor"))


def check(airflow: LiveAirflow, model: str, window: str) -> dict[str, Any]:
    return finished(airflow, *start(airflow, model, window, "the key of the run"))


def trained(airflow: LiveAirflow, model: str, number: int = 1) -> tuple[str, str, Window]:
    """Wait for run ``number`` of the training DAG: its id, its partition key, and the window of the training set."""
    dag = f"train_{model}"
    run = airflow.until(lambda: airflow.runs(dag)[number - 1 :], f"run {number} of {dag} starts", 300)[0]
    airflow.wait_for_success(dag, run["dag_run_id"], 600)
    result = airflow.xcom(dag, run["dag_run_id"], "build")
    return run["dag_run_id"], run["partition_key"], Window.model_validate(result["dataset"]["window"])


def events(airflow: LiveAirflow, model: str) -> list[dict[str, Any]]:
    found = airflow.asset_events("limit=100&order_by=-timestamp")
    return [event for event in found if event["uri"] == f"mlops://{model}/retrain"]


def states(store: ArtifactStore, model: str) -> dict[str, str]:
    recorded = recorded_requests(store, model, Ledger(store, model).entries())
    return {item.request.window.label: item.state for item in recorded}


def test_a_request_starts_every_training_dag_with_its_window_whatever_the_schedules(airflow, store):
    # The partition key of a run may be any text: a day in another month, or text that is not a window.
    keys = {"keyed_keyed": "2024-05-05", "keyed_plain": "customer 7"}
    started = {model: start(airflow, model, "2024-04", keys.get(model)) for model in MODELS}
    for model, (dag, run) in started.items():
        result = finished(airflow, dag, run)
        assert (result["decision"], result["request_sent"], result["request_note"]) == ("retrain", True, None)
        assert (result["request_asset"], result["request_key"]) == (f"mlops://{model}/retrain", "2024-04")
        train_run, key, window = trained(airflow, model)
        assert key == (None if model.endswith("_plain") else "2024-04")
        assert window == Window.model_validate("2024-01..2024-04")
        for event in events(airflow, model):
            assert event["extra"]["request"] == result["request"]
            assert Window.model_validate(event["extra"]["window"]) == Window.model_validate("2024-04")
            assert event["extra"]["reason"] == result["reason"]
        # Only a DAG without partitions needs an event without a key.
        sent = [event["partition_key"] for event in events(airflow, model)]
        assert set(sent) == ({"2024-04", None} if model.endswith("_plain") else {"2024-04"})
        assert len(sent) == len(set(sent))
        answer = read_answer(store, recorded_requests(store, model, Ledger(store, model).entries())[0].request)
        assert (answer.dag_id, answer.run_id, answer.task_id) == (f"train_{model}", train_run, "build")
    assert [len(airflow.runs(f"train_{model}")) for model in MODELS] == [1, 1, 1, 1]
    # The request was answered, so the cooldown of 60 days holds.
    assert check(airflow, "keyed_keyed", "2024-05")["decision"] == "watch"


def test_a_new_champion_starts_a_dag_without_partitions(airflow):
    airflow.parsed("deploy_plain")
    run = airflow.trigger("promote_keyed", partition_key="2024-04")
    airflow.wait_for_success("promote_keyed", run, 300)
    deployed = airflow.until(lambda: airflow.runs("deploy_plain"), "deploy_plain starts", 300)
    airflow.wait_for_success("deploy_plain", deployed[0]["dag_run_id"], 300)
    assert airflow.xcom("deploy_plain", deployed[0]["dag_run_id"], "deploy") == ["7", 1]
    assert len(airflow.runs("deploy_plain")) == 1
    # DeployOperator takes the text as well.
    by_hand = airflow.trigger("deploy_plain")
    airflow.wait_for_success("deploy_plain", by_hand, 300)
    assert airflow.xcom("deploy_plain", by_hand, "deploy") == ["None", 0]


def test_a_person_starts_the_same_training_dags(airflow, store):
    runs = {
        "train_keyed_keyed": airflow.trigger("train_keyed_keyed", partition_key="2024-02"),
        "train_plain_plain": airflow.trigger("train_plain_plain", {"window": "2024-02"}),
    }
    for dag, run in runs.items():
        airflow.wait_for_success(dag, run, 600)
        window = airflow.xcom(dag, run, "build")["dataset"]["window"]
        assert Window.model_validate(window) == Window.model_validate("2024-01..2024-02")


def test_a_cleared_check_sends_the_request_again_and_another_check_of_the_window_does_not(airflow, store):
    before = [len(airflow.runs(f"train_{model}")) for model in ("keyed_plain", "plain_keyed")]
    again = check(airflow, "plain_keyed", "2024-04")
    assert (again["decision"], again["request_sent"], again["request_asset"]) == ("retrain", False, None)
    assert "has sent this request" in again["request_note"]
    for model, count in zip(("keyed_plain", "plain_keyed"), before, strict=True):
        dag = f"monitor_{model.split('_')[0]}"
        (asked,) = {event["source_run_id"] for event in events(airflow, model)}
        airflow.clear(dag, asked, "monitor")
        result = finished(airflow, dag, asked)
        assert (result["request_sent"], result["request_key"]) == (True, "2024-04")
        assert trained(airflow, model, count + 1)[2] == Window.model_validate("2024-01..2024-04")
    assert states(store, "plain_keyed") == {"2024-04": "answered"}


def test_an_unanswered_request_does_not_limit_later_requests(airflow, store):
    first, second = check(airflow, "paused", "2024-04"), check(airflow, "paused", "2024-05")
    assert [(item["decision"], item["request_sent"]) for item in (first, second)] == [("retrain", True)] * 2
    assert states(store, "paused") == {"2024-04": "expired", "2024-05": "open"}
    with pytest.raises(subprocess.CalledProcessError) as nobody:
        airflow.cli("mlops", "ledger", "paused", "--requests")
    assert "train_paused" in nobody.value.stdout
    assert airflow.runs("train_paused") == []

    airflow.call("PATCH", "/api/v2/dags/train_paused", {"is_paused": False})
    assert check(airflow, "paused", "2024-06")["decision"] == "retrain"
    assert trained(airflow, "paused")[1:] == ("2024-06", Window.model_validate("2024-01..2024-06"))
    assert states(store, "paused") == {"2024-04": "expired", "2024-05": "expired", "2024-06": "answered"}
    assert check(airflow, "paused", "2024-07")["decision"] == "watch"
    rows = json.loads(airflow.cli("mlops", "ledger", "paused", "--requests", "--output", "json"))
    assert [row["state"] for row in rows] == ["expired", "expired", "answered"]


def test_a_check_reports_that_no_dag_listens_to_the_request(airflow, store):
    dag, run = start(airflow, "lonely", "2024-04", "2024-04")
    result = finished(airflow, dag, run)
    assert (result["decision"], result["request_sent"]) == ("retrain", True)
    assert "nothing listens to mlops://lonely/retrain" in result["request_note"]
    (task,) = airflow.task_instances(dag, run)
    assert task["rendered_map_index"].endswith("(request might not start a training)")
    assert states(store, "lonely") == {"2024-04": "open"}
    with pytest.raises(subprocess.CalledProcessError) as nobody:
        airflow.cli("mlops", "ledger", "lonely", "--requests")
    assert "Nothing listens to mlops://lonely/retrain" in nobody.value.stdout
