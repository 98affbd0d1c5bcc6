"""Spec and result of the stage ``materialize_features``."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from airflow_mlops.core.base import Model, Name
from airflow_mlops.core.calls import Result, Spec
from airflow_mlops.core.durations import Duration
from airflow_mlops.core.references import DatasetLike
from airflow_mlops.core.windows import UtcDatetime, Window


class PublishedSource(Model):
    """Datasets to publish as the rows of a Feast file source.

    :param dataset: reference to a dataset, or the name of a dataset and optionally a window
    :param valid_from: time from which the rows are valid, for a snapshot without a timestamp column
    """

    dataset: DatasetLike
    valid_from: UtcDatetime | None = None


def _as_source(value: Any) -> Any:
    # The result of an upstream step also has a field "dataset". Its other fields are ignored.
    if isinstance(value, dict) and "dataset" in value:
        return {name: value[name] for name in ("dataset", "valid_from") if value.get(name) is not None}
    return {"dataset": value}


class MaterializeFeaturesSpec(Spec):
    """Parameters of materialization, which writes feature values to Feast's online store.

    :param repo: path of the folder with ``feature_store.yaml``
    :param window: time window of the feature values to materialize
    :param feature_views: names of the feature views to materialize; by default all feature views that are served online,
        without stream feature views that have a function (``udf``)
    :param chunk: maximum length of a chunk; 31 days by default. The chunks of the window are materialized one after the
        other. A retry continues after the last finished chunk
    :param apply: whether to register the definitions of the repository first, as ``feast apply`` does
    :param sources: datasets to publish before the materialization, by name of the Feast file source
    """

    repo: str = Field(min_length=1)
    window: Window
    feature_views: list[str] | None = None
    chunk: Duration = timedelta(days=31)
    apply: bool = True
    sources: dict[str, Annotated[PublishedSource, BeforeValidator(_as_source)]] = Field(default_factory=dict)


class MaterializeFeaturesResult(Result):
    """Result of materialization.

    :param project: name of the Feast project
    :param window: materialized time window
    :param feature_views: names of the materialized feature views
    :param chunks: number of chunks of the window that this try of the task materialized
    :param chunks_skipped: number of chunks that an earlier try of the task had already materialized
    :param features: for each feature view, the Feast type of each feature, by name
    :param published: number of published rows by name of the Feast file source. A source is absent if the same datasets
        had already been published to it
    """

    project: Name
    window: Window
    feature_views: list[str]
    chunks: int
    features: dict[str, dict[str, str]] = Field(default_factory=dict)
    chunks_skipped: int = 0
    published: dict[str, int] = Field(default_factory=dict)
