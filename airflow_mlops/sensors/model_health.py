"""``ModelHealthSensor``, which waits for a monitoring report with an accepted decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.links import ReportLink
from airflow_mlops.sensors.base import SpecSensor
from airflow_mlops.settings import default_store

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.triggers.base import BaseTrigger

    from airflow_mlops.stages.model_health.spec import ModelHealthResult, ModelHealthSpec


class ModelHealthSensor(SpecSensor):
    """Waits for MonitorOperator's report on a model, and succeeds if the decision in the report is in ``accept``.

    With a different decision the task fails without a retry, or is skipped if ``soft_fail`` is set. The sensor does not
    wait for a better report, because waiting does not change the report on a window.

    ``deferrable`` and the parameters of ``BaseSensorOperator`` can be used as well.

    :param model: name of the registered model
    :param window: the window of the report, such as ``{{ partition_key }}``; by default the latest window with a report
    :param max_age: the largest age of the report: a ``timedelta``, or text such as ``2D``. Older reports are ignored
    :param accept: the accepted decisions, a subset of ``healthy``, ``watch`` and ``retrain``
    :param store: URL of the artifact store; by default ``[mlops] artifacts``
    """

    step = "model_health"
    safeguards = SpecSensor.safeguards | {"max_age"}
    operator_extra_links = (ReportLink(),)

    store: str | None

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
        self.assign_parameters(locals())

    def check(self, spec: ModelHealthSpec) -> ModelHealthResult | None:
        from airflow_mlops.data.store import ArtifactStore
        from airflow_mlops.stages.model_health.step import look

        return look(spec, ArtifactStore(self.store or default_store()))

    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        from airflow_mlops.triggers.sensing import ModelHealthTrigger

        return ModelHealthTrigger(spec, self.poke_interval, self.store or default_store())
