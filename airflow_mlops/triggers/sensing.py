"""The Airflow triggers of the sensors."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_mlops.compute.first_check import before_first_check
from airflow_mlops.core.errors import MLOpsError
from airflow_mlops.triggers.child import ask


class SensingTrigger(BaseTrigger):
    """An Airflow trigger that fires when the condition of a sensor is met, or when a check fails.

    If the condition is met, the payload of the event has the field ``result``. If a check fails, it has the fields
    ``error`` (the name of a class in :mod:`airflow_mlops.core.errors`) and ``message``.

    :param spec: the spec of the sensor as JSON
    :param poke_interval: seconds between two checks
    """

    def __init__(self, spec: dict[str, Any], poke_interval: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spec = spec
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", {"spec": self.spec, "poke_interval": self.poke_interval}

    @abstractmethod
    async def check(self) -> dict[str, Any] | None:
        """Check the condition once. Return the result as JSON if the condition is met, otherwise ``None``."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        event: dict[str, Any]
        await before_first_check()
        try:
            while (found := await self.check()) is None:
                await asyncio.sleep(self.poke_interval)
            event = {"result": found}
        except MLOpsError as error:
            event = {"error": type(error).__name__, "message": str(error)}
        yield TriggerEvent(event)  # type: ignore[no-untyped-call]


class ModelHealthTrigger(SensingTrigger):
    """The Airflow trigger of ModelHealthSensor, which waits for a monitoring report on a model.

    :param spec: the spec of the sensor as JSON
    :param poke_interval: seconds between two checks
    :param store: URL of the artifact store
    """

    def __init__(self, spec: dict[str, Any], poke_interval: float, store: str) -> None:
        super().__init__(spec, poke_interval)
        self.store = store

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path, arguments = super().serialize()
        return path, {**arguments, "store": self.store}

    async def check(self) -> dict[str, Any] | None:
        return await asyncio.to_thread(self._read)

    def _read(self) -> dict[str, Any] | None:
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.stages.model_health.spec import ModelHealthSpec
        from airflow_mlops.stages.model_health.step import look

        found = look(ModelHealthSpec.model_validate(self.spec), ArtifactStore(self.store))
        return None if found is None else found.model_dump(mode="json")


class FeatureFreshnessTrigger(SensingTrigger):
    """The Airflow trigger of FeatureFreshnessSensor, which waits until features are materialized.

    Each check runs in a separate process, because importing Feast in the triggerer would block other Airflow triggers
    for seconds and occupy memory permanently.

    :param spec: the spec of the sensor as JSON
    :param poke_interval: seconds between two checks
    """

    async def check(self) -> dict[str, Any] | None:
        what = f"The Feast registry of the repository {self.spec['repo']!r} cannot be read"
        result, printed = await ask("airflow_mlops.stages.feature_freshness.step", self.spec, what)
        if result is None:
            self.log.info("%s", printed)
        return result
