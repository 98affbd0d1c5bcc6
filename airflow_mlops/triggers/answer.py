"""``AnswerTrigger``, an Airflow trigger that waits for the answer to a request that an earlier try sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.hitl import HITLTrigger

from airflow_mlops.compute.first_check import before_first_check

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent


class AnswerTrigger(HITLTrigger):
    """An ``HITLTrigger`` whose first check waits, see :func:`airflow_mlops.compute.first_check.before_first_check`.

    A worker cannot read the answer, so the task is deferred even if the answer exists already. Without the pause, such a
    task would be resumed too early.
    """

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await before_first_check()
        async for event in super().run():
            yield event
