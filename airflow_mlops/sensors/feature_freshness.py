"""Waiting for features to be materialised."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_mlops.sensors.base import SpecSensor
from airflow_mlops.stages.feature_freshness.spec import FeatureFreshnessResult, FeatureFreshnessSpec

if TYPE_CHECKING:
    from airflow.triggers.base import BaseTrigger


class FeatureFreshnessSensor(SpecSensor):
    """Waits until the feature views of a Feast repository are materialised, by whatever means, as Feast's registry tells.

    :param repo: the folder that holds ``feature_store.yaml``, as the worker sees it, and the triggerer (templated)
    :param window: the time that must have been materialised, without a gap, as in ``{{ partition_key }}`` (templated)
    :param max_age: instead of ``window``: how long ago the newest materialised time may be, a ``timedelta`` or text such
        as ``2h`` (templated)
    :param feature_views: names of the views; all that are served online unless given. One that is not registered yet is
        waited for (templated)
    :param deferrable: wait in the triggerer; ``[operators] default_deferrable`` unless given
    """

    spec = FeatureFreshnessSpec
    template_fields: Sequence[str] = ("repo", "window", "max_age", "feature_views")

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
        self.repo = repo
        self.window = window
        self.max_age = max_age
        self.feature_views = feature_views

    def build_spec(self) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "window": self.window,
            "max_age": self.max_age,
            "feature_views": self.feature_views,
        }

    def look(self, spec: FeatureFreshnessSpec) -> FeatureFreshnessResult | None:
        from airflow_mlops.stages.feature_freshness.step import look

        return look(spec)

    def trigger(self, spec: dict[str, Any]) -> BaseTrigger:
        from airflow_mlops.triggers.sensing import FeatureFreshnessTrigger

        return FeatureFreshnessTrigger(spec, self.poke_interval)
