"""``FeatureFreshnessSensor``, which waits for materialized features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.sensors.base import SpecSensor

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.triggers.base import BaseTrigger

    from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessResult, FeatureFreshnessSpec


class FeatureFreshnessSensor(SpecSensor):
    """Waits until the feature views of a Feast repository are materialized, according to Feast's registry.

    Views whose rows the online store has lost, such as after a flush of Redis, are not fresh. An online store that cannot be
    read is an error.

    The sensor accepts any materialization, by a DAG or by hand. Exactly one of ``window`` and ``max_age`` is required.

    ``deferrable`` and the parameters of ``BaseSensorOperator`` can be used as well.

    :param repo: path of the folder with ``feature_store.yaml``, on the worker and on the triggerer
    :param window: the time window that must be materialized without a gap, such as ``{{ partition_key }}``
    :param max_age: the longest accepted time between the newest materialized time and now: a ``timedelta``, or text
        such as ``2h``
    :param feature_views: names of the feature views; by default all feature views with ``online=True``. The sensor also
        waits for feature views that are not registered yet
    """

    step = "feature_freshness"

    def __init__(
        self,
        *,
        repo: str,
        window: str | None = None,
        max_age: str | timedelta | None = None,
        feature_views: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def check(self, spec: FeatureFreshnessSpec) -> FeatureFreshnessResult | None:
        from airflow_mlops.stages.feature_freshness.step import look

        return look(spec)

    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        from airflow_mlops.triggers.sensing import FeatureFreshnessTrigger

        return FeatureFreshnessTrigger(spec, self.poke_interval)
