"""Airflow triggers that resume a task check nothing until the scheduler has read that the task was deferred."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest


def answer() -> Any:
    from airflow_mlops.triggers.answer import AnswerTrigger

    return AnswerTrigger(ti_id=UUID(int=1), options=["Approve"], params={}, timeout_datetime=None)


def health() -> Any:
    from airflow_mlops.triggers.sensing import ModelHealthTrigger

    return ModelHealthTrigger({"model": "delays"}, 0.01, "memory://")


def pod() -> Any:
    from airflow_mlops.compute.kubernetes.trigger import StepPodTrigger

    return StepPodTrigger("p", "n", datetime.now(timezone.utc), "base")


def train_job() -> Any:
    from airflow_mlops.compute.kubernetes.train_jobs.trigger import TrainJobTrigger

    return TrainJobTrigger("j", "n", "kubernetes_default", 0, 10, 20)


def rollout() -> Any:
    from airflow_mlops.compute.kubernetes.serving.trigger import RolloutTrigger

    return RolloutTrigger("Deployment", "late", "serving", "kubernetes_default", "c", 0, 100)


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (answer, "_handle_response"),
        (health, "check"),
        (pod, "_wait_for_pod_start"),
        (train_job, "_read"),
        (rollout, "_read"),
    ],
)
def test_the_first_check_waits(make: Callable[[], Any], check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trigger = make()
    calls: list[object] = []
    path, arguments = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__name__}"
    assert set(arguments) <= set(inspect.signature(type(trigger)).parameters)

    async def sleep(seconds: float) -> None:
        calls.append(seconds)

    async def checked(*_: Any) -> Any:
        calls.append(check)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(type(trigger), check, checked)

    async def first() -> None:
        with pytest.raises(asyncio.CancelledError):
            await anext(trigger.run())

    asyncio.run(first())
    assert calls == [10.0, check]
