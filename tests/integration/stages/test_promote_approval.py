"""Approval of promotions: requested once, only if there is something to decide, and recorded in the ledger."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import datetime, timedelta, timezone

import pytest

from airflow_mlops.core.references import ModelVersionRef
from airflow_mlops.data.store import ArtifactStore
from airflow_mlops.registry.ledger import Ledger
from airflow_mlops.registry.records.verdict import CandidateVerdict, GateResult, Verdict
from airflow_mlops.registry.versions import champion
from airflow_mlops.stages.context import StepContext
from airflow_mlops.stages.promote import step as promote
from airflow_mlops.stages.promote.spec import PromoteSpec


@pytest.fixture
def store(airflow_db):
    import os

    return ArtifactStore(os.environ["AIRFLOW__MLOPS__ARTIFACTS"])


@pytest.fixture
def versions(client):
    """Three versions of a model of this test alone, the first of them champion."""
    model = f"delays_{uuid.uuid4().hex[:8]}"
    client.create_registered_model(model)
    run = client.create_run("0")
    made = [client.create_model_version(model, f"{run.info.artifact_uri}/model", run.info.run_id) for _ in range(3)]
    client.set_registered_model_alias(model, "champion", "1")
    return [ModelVersionRef(model=model, version=int(item.version), run_id=run.info.run_id) for item in made]


def verdict(winner: ModelVersionRef | None, against: ModelVersionRef, *candidates: ModelVersionRef) -> Verdict:
    gates = [
        GateResult(gate="roc_auc | at least 0.6", measured=0.7, asked=0.6, passed=True, explanation="It is."),
        GateResult(gate="fresh", measured=None, asked=None, passed=True, explanation="No limit."),
    ]
    return Verdict(
        model=against.model, dataset_name="delays_training", dataset_id="d" * 64, part="test", metric="roc_auc",
        winner=winner, champion=against, champion_metrics={"roc_auc": 0.65}, baseline_metrics={"roc_auc": 0.5},
        candidates=[
            CandidateVerdict(candidate=item, metrics={"roc_auc": 0.7, "brier": 0.123456}, gates=gates, passed=True)
            for item in candidates or (winner,)
        ],
        reason="It passed every gate.",
    )  # fmt: skip


DAG = """
import sys
from datetime import timedelta
from pathlib import Path
from airflow.sdk import DAG
from airflow_mlops.compute import Process, Worker
from airflow_mlops.operators import Approval, PromoteOperator

class UnluckyPromoteOperator(PromoteOperator):
    def finish(self, result, context):
        super().finish(result, context)
        if context["ti"].try_number == 1:
            raise ConnectionError("the worker lost its XCom")

with DAG("approve_{model}", schedule=None):
    {operator}(task_id="promote", verdict={verdict!r}, approval=Approval({approval}), {more})
"""


def dag(found: Verdict, approval: str = "", more: str = "", operator: str = "PromoteOperator") -> str:
    return DAG.format(
        model=found.model, verdict=found.model_dump(mode="json"), approval=approval, more=more, operator=operator
    )


class Person:
    """Answers the approval requests of one DAG through Airflow's API, in a thread while ``dag.test()`` runs.

    :param answer: what is sent, or ``None`` for no answer in time
    """

    def __init__(self, model: str, answer: dict | None, before=lambda: None) -> None:
        self.path = f"/api/v2/dags/approve_{model}/dagRuns/~/hitlDetails"
        self.answer = answer
        self.before = before
        self.asked: list[dict] = []
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.problem: Exception | None = None

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join(60)
        if self.problem:
            raise self.problem

    def _run(self):
        try:
            from airflow.api_fastapi.app import create_app
            from fastapi.testclient import TestClient

            client = TestClient(create_app(apps="core"), base_url="http://localhost")
            token = client.get("/auth/token").json()["access_token"]
            client.headers["Authorization"] = f"Bearer {token}"
            while not self.done.wait(0.2):
                found = client.get(self.path, params={"state": "awaiting_input"}).json()["hitl_details"]
                for request in (item for item in found if not item["response_received"]):
                    if request["task_instance"]["state"] == "awaiting_input":
                        self.asked.append(request)
                        self.before()
                        self._say(client, request["task_instance"])
        except Exception as error:  # noqa: BLE001 - raised again in the thread of the test
            self.problem = error

    def _say(self, client, ti):
        if self.answer is None:
            from airflow.jobs.job import Job
            from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

            time.sleep(1.2)
            SchedulerJobRunner(job=Job()).check_awaiting_input_timeouts()
            return
        path = f"/api/v2/dags/{ti['dag_id']}/dagRuns/{ti['dag_run_id']}/taskInstances/promote/{ti['map_index']}"
        answer = client.patch(f"{path}/hitlDetails", json=self.answer)
        assert answer.status_code == 200, answer.text


@pytest.fixture(autouse=True)
def _all_admins(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "True")


YES = {"chosen_options": ["Approve"], "params_input": {"note": "Looks good."}}
NO = {"chosen_options": ["Reject"], "params_input": {"note": "Too slow\nfor us."}}


def test_an_approved_winner_is_promoted_and_the_ledger_names_the_approver(
    client, store, versions, run_dag, mlflow_connection
):
    v1, v2, _ = versions
    with Person(v1.model, YES) as person:
        run = run_dag(dag(verdict(v2, v1)))
    assert run.states() == {"promote": "success"}
    (request,) = person.asked
    assert request["subject"] == f"Promote {v2}?"
    assert request["options"] == ["Approve", "Reject"]
    assert "| roc_auc \\| at least 0.6 | 0.7 | 0.6 | passed | It is. |" in request["body"]
    assert f"| metric | {v2} | {v1} (champion) | baseline |" in request["body"]
    assert "| roc_auc | 0.7 | 0.65 | 0.5 |\n| brier | 0.1235 |  |  |" in request["body"]
    assert f"[MLflow run of {v2}]({mlflow_connection}/#/runs/{v2.run_id})" in request["body"]
    result = run.xcom("promote")
    assert (result["promoted"], result["champion"], result["replaced"]) == (True, v2.model_dump(), v1.model_dump())
    assert champion(client, v1.model) == v2
    (entry,) = Ledger(store, v1.model).entries()
    assert entry.decision == "promoted"
    assert (entry.approval.by, entry.approval.decision, entry.approval.note) == (
        "Anonymous", "approved", "Looks good.",
    )  # fmt: skip
    assert entry.time >= entry.approval.at
    assert result["approval"] == entry.approval.model_dump(mode="json")
    assert f"(approved by Anonymous at {entry.approval.at:%Y-%m-%d %H:%M} UTC: Looks good)" in result["summary"]
    assert [uri for uri, _ in run.asset_events()] == [f"mlops://{v1.model}/champion"]


def test_a_rejection_is_recorded_as_a_decision(client, store, versions, run_dag):
    v1, v2, _ = versions
    with Person(v1.model, NO):
        run = run_dag(dag(verdict(v2, v1)))
    assert run.states() == {"promote": "success"}
    result = run.xcom("promote")
    assert not result["promoted"]
    assert result["reason"].startswith("Rejected by Anonymous at ")
    assert result["reason"].endswith(" UTC: Too slow for us.")
    assert champion(client, v1.model) == v1
    (entry,) = Ledger(store, v1.model).entries()
    assert (entry.decision, entry.champion, entry.approval.decision) == ("refused", v1, "rejected")
    assert entry.approval.note == "Too slow\nfor us."
    # v1 became champion without an event, so the task sends it now.
    assert [extra["version"] for _, extra in run.asset_events()] == [v1.version]


@pytest.mark.parametrize(
    ("on_timeout", "state", "decision"),
    [("reject", "success", "timed_out"), ("approve", "success", "approved"), ("fail", "failed", None)],
)
def test_on_timeout_determines_the_meaning_of_no_answer(
    on_timeout, state, decision, client, store, versions, run_dag, capfd
):
    v1, v2, _ = versions
    with Person(v1.model, None) as person:
        run = run_dag(dag(verdict(v2, v1), f"timeout=timedelta(seconds=1), on_timeout={on_timeout!r}", "retries=2"))
    assert run.states() == {"promote": state}
    assert len(person.asked) == 1
    assert champion(client, v1.model) == (v2 if on_timeout == "approve" else v1)
    entries = Ledger(store, v1.model).entries()
    if decision is None:
        assert entries == []
        assert "ApprovalTimeoutError: Nobody answered the request for approval within 0:00:01" in capfd.readouterr().out
        return
    assert [(entry.approval.by, entry.approval.decision) for entry in entries] == [("", decision)]
    meaning = "approved" if on_timeout == "approve" else "rejected"
    assert f"obody answered within 0:00:01, so the promotion is {meaning}" in run.xcom("promote")["summary"]


def test_an_approved_winner_is_refused_if_the_champion_changed_meanwhile(client, store, versions, run_dag):
    v1, v2, v3 = versions

    def meanwhile():
        promote.run(PromoteSpec(verdict=verdict(v3, v1)), StepContext(store=store, key="quicker"))

    with Person(v1.model, YES, before=meanwhile):
        run = run_dag(dag(verdict(v2, v1)))
    result = run.xcom("promote")
    assert not result["promoted"]
    assert (
        result["reason"]
        == "The candidates were compared with the champion v1, but now the champion is v3. Evaluate the candidates again."
    )
    assert champion(client, v1.model) == v3
    entry = Ledger(store, v1.model).entries()[-1]
    assert (entry.decision, entry.approval.decision) == ("refused", "approved")


@pytest.mark.parametrize("nothing_to_decide", ["no winner", "champion already", "compared with another"])
def test_no_approval_is_requested_if_there_is_nothing_to_decide(nothing_to_decide, client, versions, run_dag):
    v1, v2, _ = versions
    found = verdict(None, v1, v2) if nothing_to_decide == "no winner" else verdict(v2, v1)
    if nothing_to_decide != "no winner":
        other = "2" if nothing_to_decide == "champion already" else "3"
        client.set_registered_model_alias(v1.model, "champion", other)
    with Person(v1.model, YES) as person:
        run = run_dag(dag(found))
    assert run.states() == {"promote": "success"}
    assert person.asked == []
    assert not run.xcom("promote")["promoted"]
    assert run.xcom("promote")["approval"] is None


@pytest.mark.parametrize("place", ["Worker()", "Process(python=sys.executable)"])
def test_a_retry_after_the_answer_requests_no_second_approval(place, client, store, versions, run_dag):
    v1, v2, _ = versions
    with Person(v1.model, YES) as person:
        more = f"run_on={place}, retries=1, retry_delay=timedelta(0)"
        run = run_dag(dag(verdict(v2, v1), more=more, operator="UnluckyPromoteOperator"))
    assert run.states() == {"promote": "success"}
    assert len(person.asked) == 1
    assert run.xcom("promote")["approval"]["by"] == "Anonymous"
    assert champion(client, v1.model) == v2
    assert len(Ledger(store, v1.model).entries()) == 1


def test_a_step_that_needs_approval_promotes_nothing_without_it(client, store, versions):
    v1, v2, _ = versions
    spec = PromoteSpec(verdict=verdict(v2, v1), needs_approval=True)
    result = promote.run(spec, StepContext(store=store, key="raced"))
    assert not result.promoted
    assert "needs approval" in result.reason
    assert champion(client, v1.model) == v1


def test_a_rejection_is_recorded_even_if_the_version_became_champion_otherwise(client, store, versions):
    from airflow_mlops.registry.records.approval import ApprovalRecord

    v1, v2, _ = versions
    client.set_registered_model_alias(v1.model, "champion", "2")
    rejection = ApprovalRecord(by="ada", at=datetime(2026, 1, 1, tzinfo=timezone.utc), decision="rejected")
    spec = PromoteSpec(verdict=verdict(v2, v1), needs_approval=True, approval=rejection)
    result = promote.run(spec, StepContext(store=store, key="late"))
    assert result.reason == "Rejected by ada at 2026-01-01 00:00 UTC."
    assert Ledger(store, v1.model).entries()[-1].approval == rejection


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_timeout": "maybe"}, "on_timeout='maybe'"),
        ({"timeout": timedelta(0)}, "timeout=.*positive"),
        ({"assignees": "ada"}, "assignees='ada'.*list of users"),
    ],
)
def test_invalid_options_are_refused_when_the_dag_is_parsed(options, message):
    from airflow_mlops.core.errors import SpecError
    from airflow_mlops.operators import Approval

    with pytest.raises(SpecError, match=message):
        Approval(**options)
