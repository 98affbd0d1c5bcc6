"""Spec and result of checking how far features are materialised."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window


class FeatureFreshnessSpec(Spec):
    """Check whether feature views are materialised, either for a window or up to a recent time.

    :param repo: the folder with ``feature_store.yaml``
    :param window: the time that must be materialised without a gap
    :param max_age: the greatest age of the newest materialised time
    :param feature_views: the names of the views; by default all that are served online
    """

    repo: str = Field(min_length=1)
    window: Window | None = None
    max_age: Duration | None = None
    feature_views: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> FeatureFreshnessSpec:
        if (self.window is None) == (self.max_age is None):
            raise ValueError("give either window or max_age")
        return self


class FeatureFreshnessResult(Result):
    """How far the views are materialised.

    :param project: the Feast project
    :param materialized_until: the newest materialised time of each view
    """

    project: Name
    materialized_until: dict[str, UtcDatetime]
