"""The trigger that waits for a TrainJob."""

from __future__ import annotations

import json
import time
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from tests.unit.compute.kubernetes.train_jobs.test_state import NOW, job


def test_trigger_is_restored_from_its_serialized_form():
    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    trigger = TrainJobTrigger("j", "n", "kubernetes_default", NOW, 10, 20, deadline=NOW + 5)
    path, arguments = trigger.serialize()
    assert path == "airflow_mlops.compute.kubernetes.train_jobs.trigger.TrainJobTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert {"name": "j", "namespace": "n", "since": NOW, "deadline": NOW + 5}.items() <= arguments.items()
    assert (arguments["schedule_timeout"], arguments["startup_timeout"]) == (10, 20)
    assert TrainJobTrigger(**arguments).serialize() == (path, arguments)


class Cluster:
    """Answers the trigger's requests with the given answers, in order."""

    def __init__(self, monkeypatch, *answers):
        from kubernetes_asyncio import client

        from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

        self.answers = list(answers)
        self.requests = []
        monkeypatch.setattr(TrainJobTrigger, "_hook", lambda _: SimpleNamespace(get_conn=self.connection))
        self.connected = SimpleNamespace(sanitize_for_serialization=lambda pod: pod)
        jobs = SimpleNamespace(get_namespaced_custom_object=self.answer, delete_namespaced_custom_object=self.answer)
        monkeypatch.setattr(client, "CustomObjectsApi", lambda _: jobs)
        monkeypatch.setattr(client, "CoreV1Api", lambda _: SimpleNamespace(list_namespaced_pod=self.pods))

        async def at_once(*_):
            pass

        monkeypatch.setattr("asyncio.sleep", at_once)

    @asynccontextmanager
    async def connection(self):
        yield self.connected

    async def pods(self, *_, **__):
        return SimpleNamespace(items=[])

    async def answer(self, *arguments, **further):
        self.requests.append((arguments, further))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def fired(**options) -> dict:
    import asyncio

    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    arguments = {"since": time.time(), "schedule_timeout": 10, "startup_timeout": 20, **options}
    trigger = TrainJobTrigger("j", "n", "kubernetes_default", **arguments)

    async def first():
        return await anext(trigger.run())

    return asyncio.run(first()).payload


def api_error(status: int) -> Exception:
    from kubernetes_asyncio.client.exceptions import ApiException

    return ApiException(status=status)


def test_trigger_repeats_requests_that_fail_temporarily(monkeypatch):
    from aiohttp import ServerDisconnectedError

    answers = [
        api_error(429),
        ServerDisconnectedError(),
        job(),
        api_error(500),
        api_error(503),
        job(("Complete", "r", "m")),
    ]
    cluster = Cluster(monkeypatch, *answers)
    event = fired()
    assert (event["status"], event["name"], event["namespace"]) == ("look", "j", "n")
    assert cluster.answers == []


def test_trigger_reports_an_error_that_lasts(monkeypatch):
    Cluster(monkeypatch, api_error(403))
    event = fired()
    assert event["status"] == "error"
    assert "403" in event["message"]


@pytest.mark.parametrize(
    ("answer", "options", "status"),
    [
        (api_error(404), {}, "look"),
        (job(("Failed", "r", "m")), {}, "look"),
        (job(), {"since": 0}, "look"),
        (job(), {"deadline": 0}, "timeout"),
    ],
    ids=["gone", "failed", "never began", "too long"],
)
def test_trigger_fires_when_the_job_ended_or_will_not_start(monkeypatch, answer, options, status):
    Cluster(monkeypatch, answer)
    assert fired(**options)["status"] == status


def test_job_is_deleted_when_a_user_ends_the_task_and_not_on_cleanup(monkeypatch):
    import asyncio

    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    cluster = Cluster(monkeypatch, api_error(500), {})
    trigger = TrainJobTrigger("j", "n", "kubernetes_default", NOW, 10, 20)
    asyncio.run(trigger.cleanup())
    assert cluster.requests == []
    asyncio.run(trigger.on_kill())
    assert cluster.requests[-1] == (
        ("trainer.kubeflow.org", "v1alpha1", "n", "trainjobs", "j"),
        {"propagation_policy": "Background"},
    )
    assert cluster.answers == []
