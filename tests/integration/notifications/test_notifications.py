"""Airflow's notifiers get every event once, and a failing notifier does not fail the task."""

from __future__ import annotations

import json
import uuid

import pytest

from airflow_mlops.core.errors import SpecError
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.notifications import Notify
from tests.support.candidates import held_out
from tests.support.deployed import flights, write

NOTIFIER = """
import json
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG, BaseNotifier, task
from airflow_mlops.notifications import Notify
from airflow_mlops.operators import *

class FileNotifier(BaseNotifier):
    template_fields = ("text",)
    def __init__(self, text="{{ event.name }}: {{ event.summary }}"):
        super().__init__()
        self.text = text
    def notify(self, context):
        event = context["event"]
        fields = {"text": self.text, "model": event.model, "version": event.version, "reason": event.reason}
        with Path(context["dag_run"].conf["received"]).open("a") as file:
            file.write(json.dumps({"name": event.name, "urls": event.urls, **fields}) + "\\n")

class BrokenNotifier(BaseNotifier):
    def notify(self, context):
        raise ConnectionError("the chat is down")

notifier = FileNotifier()
"""

LIFECYCLE = """
with DAG(
    "notify_{model}",
    default_args={{
        "model": "{model}",
        "notify": Notify(
            registered=notifier, evaluated=[BrokenNotifier(), notifier], promoted=notifier, refused=notifier, rolled_back=notifier,
        ),
    }},
):
    fit = TrainOperator.partial(task_id="train", dataset={dataset}).expand(
        trainer=[{{"estimator": "sklearn.linear_model.LogisticRegression"}}]
    )
    verdict = EvaluateOperator(task_id="evaluate", candidates=fit.output, gates=[{{"metric": "roc_auc", "min": 0.6}}])
    first = PromoteOperator(task_id="promote", verdict=verdict.output)
    second = TrainOperator(
        task_id="train_second", dataset={dataset}, trainer={{"estimator": "sklearn.naive_bayes.GaussianNB"}}
    )
    bad = EvaluateOperator(task_id="evaluate_bad", candidates=second.output, gates=[{{"metric": "roc_auc", "min": 0.99}}])
    good = EvaluateOperator(task_id="evaluate_good", candidates=second.output, gates=[{{"champion": "ignore"}}])
    refused = PromoteOperator(task_id="promote_bad", verdict=bad.output)
    promoted = PromoteOperator(task_id="promote_good", verdict=good.output)
    back = RollbackOperator(task_id="rollback", reason="It is naive.")
    first >> second
    first >> bad >> refused >> good >> promoted >> back
"""


@pytest.fixture
def store(airflow_db):
    import os

    return ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"])


@pytest.fixture
def received(tmp_path):
    file = tmp_path / "received"

    def read() -> list[dict]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    read.conf = {"received": str(file)}
    return read


def training(store):
    from airflow_mlops.data.datasets import DatasetWriter

    details = {
        "label": "label",
        "task": "binary",
        "features": ["distance", "wind"],
        "timestamp": None,
        "keys": ["flight"],
    }
    with DatasetWriter(store, "delays_training") as writer:
        writer.write(held_out("binary", 500, seed=1), "train")
        writer.write(held_out("binary"), "test")
        return writer.commit(details=details)[0].ref


def test_every_event_of_the_lifecycle_is_sent_once(store, received, run_dag, mlflow_connection, capfd):
    model = f"delays_{uuid.uuid4().hex[:8]}"
    source = NOTIFIER + LIFECYCLE.format(model=model, dataset=training(store).model_dump(mode="json"))
    run = run_dag(source, conf=received.conf)
    assert set(run.states().values()) == {"success"}, run.states()
    found = received()
    assert [(item["name"], item["version"]) for item in found] == [
        ("registered", 1), ("evaluated", 1), ("promoted", 1), ("registered", 2), ("evaluated", None), ("refused", None),
        ("evaluated", 2), ("promoted", 2), ("rolled_back", 1),
    ]  # fmt: skip
    assert {item["model"] for item in found} == {model}
    # The template of the notifier is rendered for each event.
    promoted, back = found[7], found[8]
    assert promoted["text"] == f"promoted: {run.xcom('promote_good')['summary']}"
    assert back["text"] == f"rolled_back: {run.xcom('rollback')['summary']}"
    assert back["reason"] == "It is naive."
    assert promoted["urls"]["ledger"].endswith("00000003.json")
    assert promoted["urls"]["run"].startswith(f"{mlflow_connection}/#/runs/")
    assert "/tasks/promote_good" in promoted["urls"]["task"]
    assert promoted["urls"]["report"] == ""
    assert found[5]["reason"] == run.xcom("promote_bad")["reason"]
    logged = capfd.readouterr().out
    assert "BrokenNotifier" in logged
    assert "'evaluated': the chat is down" in logged


MONITOR = """
class FailingMonitorOperator(MonitorOperator):
    def finish(self, result, context):
        super().finish(result, context)
        if context["ti"].try_number == 1 and context["dag_run"].conf.get("fail") == "before":
            raise ConnectionError("the worker lost its XCom")
    def execute(self, context):
        result = super().execute(context)
        if context["ti"].try_number == 1 and context["dag_run"].conf.get("fail") == "after":
            raise ConnectionError("the worker lost its XCom")
        return result

with DAG("monitor_{model}"):
    FailingMonitorOperator(
        task_id="monitor", model="{model}", dataset={dataset}, window="2013-04", notify=Notify({events}), retries=1,
        retry_delay=timedelta(0),
    )
"""


@pytest.mark.parametrize("fail", [None, "before", "after"])
def test_drift_is_sent_once_even_if_the_worker_is_killed(fail, store, received, run_dag, mlflow_connection):
    model = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = write(store, "predictions", flights(), "2013-04").model_dump(mode="json")
    source = NOTIFIER + MONITOR.format(model=model, dataset=dataset, events="drift=notifier")
    run = run_dag(source, conf={**received.conf, "fail": fail})
    assert run.states() == {"monitor": "success"}
    result = run.xcom("monitor")
    assert result["decision"] == "retrain"
    (event,) = received()
    assert (event["name"], event["reason"]) == ("drift", result["reason"])
    assert event["urls"]["report"].endswith(".html")


def test_no_notifier_gets_other_events(store, received, run_dag, mlflow_connection):
    model = f"delays_{uuid.uuid4().hex[:8]}"
    dataset = write(store, "predictions", flights(), "2013-04").model_dump(mode="json")
    source = NOTIFIER + MONITOR.format(model=model, dataset=dataset, events="promoted=notifier")
    assert run_dag(source, conf=received.conf).states() == {"monitor": "success"}
    assert received() == []


def test_a_value_that_is_not_a_notifier_is_an_error():
    with pytest.raises(SpecError, match=r"Notify\(drift='#alerts'\).*notifiers"):
        Notify(drift="#alerts")
    with pytest.raises(SpecError, match="Notify.*notifiers"):
        Notify(drift=["#alerts"])
    with pytest.raises(TypeError, match="retrained"):
        Notify(retrained=print)
