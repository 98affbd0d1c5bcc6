"""How far features are materialised: what is waited for, and what is told."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window


class FeatureFreshnessSpec(Spec):
    """Wait until feature views are materialised; either for a window, or up to a time not long ago.

    :param repo: the folder that holds ``feature_store.yaml``
    :param window: the time that must have been materialised, without a gap
    :param max_age: how long ago the newest materialised time may be
    :param feature_views: names of the views; all that are served online unless given
    """

    repo: str = Field(min_length=1)
    window: Window | None = None
    max_age: Duration | None = None
    feature_views: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> FeatureFreshnessSpec:
        if (self.window is None) == (self.max_age is None):
            raise ValueError("give either window, the time to be materialised, or max_age")
        return self


class FeatureFreshnessResult(Result):
    """How far the views are materialised.

    :param project: the Feast project
    :param materialized_until: by view, the newest time that was materialised
    """

    project: Name
    materialized_until: dict[str, UtcDatetime]
