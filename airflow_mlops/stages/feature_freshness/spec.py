"""Spec and result of the stage ``feature_freshness``."""

from __future__ import annotations

from pydantic import Field, model_validator

from airflow_mlops.core.base import Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.windows import UtcDatetime, Window


class FeatureFreshnessSpec(Spec):
    """Parameters of the check that feature views are materialized, either for a window or up to a recent time.

    :param repo: path of the folder with ``feature_store.yaml``
    :param window: time window that must be materialized without gaps; ``None`` if ``max_age`` is set
    :param max_age: maximum time since the end of the newest materialized interval, for example ``6h``; ``None`` if
        ``window`` is set
    :param feature_views: names of the feature views to check; by default all feature views that are served online
    """

    repo: str = Field(min_length=1)
    window: Window | None = None
    max_age: Duration | None = None
    feature_views: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_two(self) -> FeatureFreshnessSpec:
        if self.window is None and self.max_age is None:
            raise ValueError("Neither `window` nor `max_age` is set. Set one of them.")
        if self.window is not None and self.max_age is not None:
            raise ValueError("`window` and `max_age` are both set. Remove one of them.")
        return self


class FeatureFreshnessResult(Result):
    """The time up to which each feature view is materialized.

    :param project: name of the Feast project
    :param materialized_until: end of the newest materialized interval, by feature view
    """

    project: Name
    materialized_until: dict[str, UtcDatetime]
