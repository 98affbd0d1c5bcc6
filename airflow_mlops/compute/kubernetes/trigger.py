"""The Airflow trigger that waits for the pod of a step. Importing this module imports the Kubernetes client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from functools import cached_property
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import PodLaunchFailedException
from airflow.providers.cncf.kubernetes.triggers.pod import KubernetesPodTrigger
from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager, PodManager
from kubernetes.client import ApiClient

from airflow_mlops.compute.first_check import before_first_check
from airflow_mlops.compute.kubernetes.failures import CONFIG_PATIENCE_SECONDS, cannot_be_configured

if TYPE_CHECKING:
    from airflow.triggers.base import TriggerEvent


class _FailsEarly:
    """Mixin for pod managers that fails within seconds if a container cannot be configured.

    This happens, for example, if a Secret does not exist. The managers of the Kubernetes provider would wait for
    ``startup_timeout``.
    """

    async def await_pod_start(
        self, pod: Any, schedule_timeout: int = 120, startup_timeout: int = 120, check_interval: float = 1
    ) -> None:
        starting = asyncio.ensure_future(
            super().await_pod_start(pod, schedule_timeout, startup_timeout, check_interval)  # type: ignore[misc]
        )
        since: float | None = None
        try:
            while not (await asyncio.wait({starting}, timeout=check_interval))[0]:
                found = self.read_pod(pod)  # type: ignore[attr-defined]
                found = await found if isawaitable(found) else found
                hopeless = cannot_be_configured(ApiClient().sanitize_for_serialization(found))
                since = (since or time.monotonic()) if hopeless else None
                if since and time.monotonic() - since > CONFIG_PATIENCE_SECONDS:
                    raise PodLaunchFailedException(str(hopeless))
            await starting
        finally:
            starting.cancel()


class StepPodManager(_FailsEarly, PodManager):
    """A PodManager that fails early, see :class:`_FailsEarly`."""


class _AsyncStepPodManager(_FailsEarly, AsyncPodManager):
    """An AsyncPodManager that fails early, see :class:`_FailsEarly`."""


class StepPodTrigger(KubernetesPodTrigger):
    """A KubernetesPodTrigger that fails early, see :class:`_FailsEarly`, and whose first check waits."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", super().serialize()[1]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await before_first_check()
        async for event in super().run():
            yield event

    @cached_property
    def pod_manager(self) -> AsyncPodManager:
        return _AsyncStepPodManager(async_hook=self.hook)
