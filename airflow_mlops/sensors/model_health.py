"""Waiting for monitoring to find a model well."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.links import ReportLink
from airflow_mlops.sensors.base import SpecSensor
from airflow_mlops.settings import default_store
from airflow_mlops.stages.model_health.spec import ModelHealthResult, ModelHealthSpec

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


class ModelHealthSensor(SpecSensor):
    """Waits for MonitorOperator's report on a model, and goes on if its decision is accepted.

    Any other decision fails the task at once and without a retry, or skips it where ``soft_fail`` is set: the report on a
    window does not get better by waiting.

    :param model: the registered model's name (templated)
    :param window: the window the report is about, as in ``{{ partition_key }}``; the latest that has a report unless
        given (templated)
    :param max_age: how long ago the window may have been checked, a ``timedelta`` or text such as ``2D``; an older report
        is as good as none (templated)
    :param accept: the decisions to go on with, of ``healthy``, ``watch`` and ``retrain`` (templated)
    :param store: URL of the artifact store; ``[mlops] artifacts`` unless given (templated)
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    """

    spec = ModelHealthSpec
    template_fields: Sequence[str] = ("model", "window", "max_age", "accept", "store")
    operator_extra_links = (ReportLink(),)

    def __init__(
        self,
        *,
        model: str,
        window: str | None = None,
        max_age: str | timedelta | None = None,
        accept: Sequence[str] = ("healthy", "watch"),
        store: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.window = window
        self.max_age = max_age
        self.accept = accept
        self.store = store

    def build_spec(self) -> dict[str, Any]:
        return {"model": self.model, "window": self.window, "max_age": self.max_age, "accept": self.accept}

    def look(self, spec: ModelHealthSpec) -> ModelHealthResult | None:
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.stages.model_health.step import look

        return look(spec, ArtifactStore(self.store or default_store()))

    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        from airflow_mlops.triggers.sensing import ModelHealthTrigger

        return ModelHealthTrigger(spec, self.poke_interval, self.store or default_store())
