"""The trigger that waits for an endpoint."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from tests.unit.compute.kubernetes.serving.test_state import DONE, pod

TEMPLATE = {"metadata": {"labels": {"airflow-mlops/template": "t"}}}
LIVE = {"metadata": {"generation": 3}, "spec": {"replicas": 2, "template": TEMPLATE}, "status": {}}
READY = {**LIVE, "status": DONE}


def trigger(answers: list[Any], monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """A trigger that reads the given answers, in order."""
    from airflow_mlops.compute import first_check
    from airflow_mlops.compute.kubernetes.serving.trigger import RolloutTrigger

    monkeypatch.setattr(first_check, "_SECONDS", 0)

    async def read(self: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(RolloutTrigger, "_read", read)
    given = {"since": time.time(), "limit": 100, "poll_interval": 0, **options}
    return RolloutTrigger("Deployment", "late", "serving", "kubernetes_default", "c", **given)


def event(made: Any) -> dict[str, Any]:
    async def first() -> Any:
        return await anext(made.run())

    return asyncio.run(first()).payload


def test_it_is_restored_from_its_serialized_form(monkeypatch):
    path, arguments = trigger([], monkeypatch, deadline=5.0).serialize()
    assert path == "airflow_mlops.compute.kubernetes.serving.trigger.RolloutTrigger"
    assert json.loads(json.dumps(arguments)) == arguments
    assert type(trigger([], monkeypatch))(**arguments).serialize() == (path, arguments)


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([(LIVE, [pod()]), (LIVE, [pod()]), (READY, [])], "look"),
        # It was deleted.
        ([(LIVE, []), (None, [])], "look"),
        ([(LIVE, []), ConnectionError("gone")], "error"),
    ],
)
def test_it_fires_when_the_endpoint_is_ready_or_gone_or_cannot_be_read(answers, status, monkeypatch):
    found = event(trigger(answers, monkeypatch))
    assert (found["status"], found["name"], found["namespace"]) == (status, "late", "serving")
    assert answers == []


def test_it_fires_when_the_time_of_the_endpoint_or_of_the_task_is_over(monkeypatch):
    assert event(trigger([(LIVE, [pod()])], monkeypatch, since=time.time() - 101))["status"] == "look"
    assert event(trigger([], monkeypatch, deadline=time.time() - 1))["status"] == "timeout"


def test_the_previous_release_is_restored_only_if_a_user_ends_the_waiting_task(monkeypatch):
    from airflow_mlops.compute.kubernetes.serving.trigger import RolloutTrigger

    put_back = []
    monkeypatch.setattr(RolloutTrigger, "_put_back", lambda self: put_back.append(self.call) or "")
    waiting, fired = trigger([], monkeypatch), trigger([(READY, [])], monkeypatch)
    event(fired)
    asyncio.run(fired.on_kill())
    assert put_back == []
    asyncio.run(waiting.on_kill())
    assert put_back == ["c"]
