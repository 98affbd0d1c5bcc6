"""Requests for approval in a real Airflow with users: who may answer, and the effect of the answer."""

from __future__ import annotations

import json
import textwrap
import uuid
from pathlib import Path
from urllib.parse import quote

import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.entry import Entry
from airflow_mlops.registry.versions import champion
from tests.integration.stages.test_promote_approval import verdict
from tests.support.live import LiveAirflow

pytestmark = pytest.mark.slow

DAGS = """
from datetime import timedelta
from pathlib import Path
import json
import time
from airflow.sdk import DAG, BaseNotifier, task
from airflow_mlops.compute import Worker
from airflow_mlops.notifications import Notify
from airflow_mlops.operators import Approval, PromoteOperator

class WriteNotifier(BaseNotifier):
    template_fields = ("text",)
    def __init__(self, text):
        super().__init__()
        self.text = text
    def notify(self, context):
        with Path(context["dag_run"].conf["told"]).open("a") as file:
            file.write(self.text + "\\n")

class UnluckyPromoteOperator(PromoteOperator):
    def finish(self, result, context):
        super().finish(result, context)
        if context["ti"].try_number == 1:
            raise ConnectionError("the worker lost its XCom")

class SlowPromoteOperator(PromoteOperator):
    def execute_complete(self, context, event, about, begun):
        marker = Path(context["dag_run"].conf["told"]).with_name("taking")
        if not marker.exists():
            marker.touch()
            time.sleep(120)
        return super().execute_complete(context, event, about, begun)

class Later(Worker):
    # As a deferrable pod: the step's end is awaited in the triggerer.
    def run(self, call, conn_ids, context, log):
        from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
        from airflow.sdk.exceptions import TaskDeferred
        raise TaskDeferred(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="trigger_reentry")
    def resume(self, call, event, context, log):
        return super().run(call, call.spec, context, log)

tell = WriteNotifier("{{ event.name }} v{{ event.version }} {{ event.urls.answer or event.urls.ledger }}")

def dag(dag_id, operator, **options):
    with DAG(dag_id, default_args={"notify": Notify(approval=tell, promoted=tell, refused=[tell])}):
        @task
        def evaluate(dag_run=None):
            return json.loads(Path(dag_run.conf["verdict"]).read_text())
        operator(task_id="promote", verdict=evaluate(), **{"retries": 1, "retry_delay": timedelta(0)} | options)

dag("approve", PromoteOperator, approval=Approval(assignees=["ada", {"id": "admin", "name": "The admin"}]))
# On a busy machine, Airflow 3.3 may fail a task that is resumed within a second, before the executor's report on its deferral.
dag("slow", SlowPromoteOperator, approval=Approval(assignees=["ada"]), retries=3)
dag("hurry", PromoteOperator, approval=Approval(timeout=timedelta(seconds=1)))
dag("later", UnluckyPromoteOperator, approval=Approval(timeout=timedelta(hours=1)), run_on=Later())
"""


@pytest.fixture(scope="module", autouse=True)
def dags(airflow: LiveAirflow) -> Path:
    """The file of the DAGs."""
    file = airflow.dags / "approve.py"
    file.write_text(textwrap.dedent(DAGS))
    return file


class Model:
    """A model with three versions, of which the first is champion, and a verdict on the second version."""

    def __init__(self, airflow: LiveAirflow, client, folder: Path) -> None:
        self.airflow, self.client, self.name = airflow, client, f"delays_{uuid.uuid4().hex[:8]}"
        client.create_registered_model(self.name)
        run = client.create_run("0")
        source = f"{run.info.artifact_uri}/model"
        made = [client.create_model_version(self.name, source, run.info.run_id) for _ in range(3)]
        client.set_registered_model_alias(self.name, "champion", "1")
        self.versions = [
            ModelVersionRef(model=self.name, version=int(item.version), run_id=run.info.run_id) for item in made
        ]
        self.told, self.verdict = folder / "told", folder / "verdict.json"
        self.found(2)

    def found(self, winner: int) -> None:
        self.verdict.write_text(verdict(self.versions[winner - 1], self.versions[0]).model_dump_json())

    def start(self, dag_id: str) -> str:
        return self.airflow.trigger(dag_id, {"told": str(self.told), "verdict": str(self.verdict)})

    def champion(self) -> int:
        return champion(self.client, self.name).version

    def entries(self) -> list[Entry]:
        return Ledger(ArtifactStore(f"file://{self.airflow.home}/artifacts"), self.name).entries()


@pytest.fixture
def model(airflow, client, tmp_path):
    return Model(airflow, client, tmp_path)


def promote_task(airflow, dag_id, run_id) -> dict:
    return next(item for item in airflow.task_instances(dag_id, run_id) if item["task_id"] == "promote")


def test_only_an_assignee_may_answer_and_the_ledger_names_the_assignee(airflow, model):
    run_id = model.start("approve")
    asked = airflow.request_for_approval("approve", run_id)
    assert asked["subject"] == f"Promote {model.name} v2?"
    assert asked["assigned_users"] == [{"id": "ada", "name": "ada"}, {"id": "admin", "name": "The admin"}]
    assert asked["params"]["note"]["schema"]["format"] == "multiline"
    # While the task waits, it occupies no worker and no trigger.
    assert promote_task(airflow, "approve", run_id)["trigger"] is None
    assert airflow.answer("approve", run_id, "promote", "Approve", user="eve") == 403
    assert airflow.answer("approve", run_id, "promote", "Perhaps", user="ada") == 400
    assert model.champion() == 1
    assert airflow.answer("approve", run_id, "promote", "Approve", "Good on snow.", user="ada") == 200
    assert airflow.answer("approve", run_id, "promote", "Reject", user="admin") == 409
    airflow.wait_for_success("approve", run_id)
    assert model.champion() == 2
    (entry,) = model.entries()
    assert (entry.decision, entry.approval.by, entry.approval.decision) == ("promoted", "ada", "approved")
    assert entry.approval.note == "Good on snow."
    assert airflow.xcom("approve", run_id, "promote")["approval"] == entry.approval.model_dump(mode="json")
    asked, promoted = model.told.read_text().splitlines()
    assert asked == f"approval v2 {airflow.url}/dags/approve/runs/{quote(run_id)}/tasks/promote/required_actions"
    assert promoted.startswith("promoted v2 file:///")


def test_a_rejection_succeeds_and_promotes_nothing(airflow, model):
    run_id = model.start("approve")
    airflow.request_for_approval("approve", run_id)
    assert airflow.answer("approve", run_id, "promote", "Reject", "Too slow.") == 200
    airflow.wait_for_success("approve", run_id)
    assert model.champion() == 1
    (entry,) = model.entries()
    assert (entry.decision, entry.approval.by, entry.approval.decision) == ("refused", "admin", "rejected")
    assert entry.reason.endswith(" UTC: Too slow.")
    assert [line.split()[0] for line in model.told.read_text().splitlines()] == ["approval", "refused"]


def test_the_scheduler_ends_the_wait_for_an_answer_at_the_timeout(airflow, model):
    run_id = model.start("hurry")
    airflow.wait_for_success("hurry", run_id)
    assert model.champion() == 1
    (entry,) = model.entries()
    assert (entry.approval.by, entry.approval.decision) == ("", "timed_out")
    assert entry.reason == "Nobody answered within 0:00:01, so the promotion is rejected."


def test_a_champion_that_changes_meanwhile_is_not_overwritten(airflow, model):
    run_id = model.start("approve")
    airflow.request_for_approval("approve", run_id)
    model.client.set_registered_model_alias(model.name, "champion", "3")
    assert airflow.answer("approve", run_id, "promote", "Approve") == 200
    airflow.wait_for_success("approve", run_id)
    assert model.champion() == 3
    assert "now the champion is v3" in airflow.xcom("approve", run_id, "promote")["reason"]


def test_the_answer_is_kept_after_a_second_deferral_and_a_retry(airflow, model):
    run_id = model.start("later")
    airflow.request_for_approval("later", run_id)
    assert airflow.answer("later", run_id, "promote", "Approve") == 200
    airflow.wait_for_success("later", run_id)
    assert promote_task(airflow, "later", run_id)["try_number"] == 2
    assert model.champion() == 2
    assert [entry.approval.by for entry in model.entries()] == ["admin"]
    # The retry sends neither a request for approval nor a notification again.
    assert [line.split()[0] for line in model.told.read_text().splitlines()] == ["approval", "promoted"]


def test_a_cleared_task_asks_again_but_not_with_the_text_of_another_request(airflow, model):
    run_id = model.start("approve")
    airflow.request_for_approval("approve", run_id)
    assert airflow.answer("approve", run_id, "promote", "Reject") == 200
    airflow.wait_for_success("approve", run_id)
    airflow.clear("approve", run_id, "promote")
    assert airflow.request_for_approval("approve", run_id)["subject"] == f"Promote {model.name} v2?"
    assert airflow.answer("approve", run_id, "promote", "Reject") == 200
    airflow.wait_for_success("approve", run_id)
    assert len(model.entries()) == 2
    # Airflow 3.3 keeps the text of a task's first request.
    model.found(3)
    airflow.clear("approve", run_id, "evaluate", "promote")
    assert airflow.wait("approve", run_id) == "failed"
    number = promote_task(airflow, "approve", run_id)["try_number"]
    log = airflow.get(f"{airflow._run('approve', run_id)}/taskInstances/promote/logs/{number}?full_content=true")
    assert f"Airflow still shows an earlier request for approval of this task ('Promote {model.name} v2?')" in str(log)
    assert model.champion() == 1


def test_the_serialized_dag_stays_the_same_however_often_it_is_parsed(dags):
    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    found = []
    for _ in range(2):
        bag = DagBag(dags)
        assert not bag.import_errors, bag.import_errors
        found.append(json.dumps(DagSerialization.to_dict(bag.dags["approve"]), sort_keys=True, default=str))
    assert found[0] == found[1]
    assert "Notify(approval=['WriteNotifier']" in found[0]


def test_an_answer_that_a_killed_worker_did_not_process_is_not_requested_again(airflow, model):
    run_id = model.start("slow")
    airflow.request_for_approval("slow", run_id)
    assert airflow.answer("slow", run_id, "promote", "Approve", "Now.", user="ada") == 200
    marker = model.told.with_name("taking")
    airflow.until(marker.exists, "the answer arrives at a worker")
    assert airflow.kill_tasks() >= 2
    airflow.wait_for_success("slow", run_id)
    assert promote_task(airflow, "slow", run_id)["try_number"] >= 2
    assert [(entry.approval.by, entry.approval.note) for entry in model.entries()] == [("ada", "Now.")]
    assert [line.split()[0] for line in model.told.read_text().splitlines()] == ["approval", "promoted"]
