"""Spec and result of applying a Feast repository and materialising its features."""

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
    """Datasets to publish as the rows of a file source.

    :param dataset: a dataset, or the name of one with an optional window
    :param valid_from: the time since which a snapshot is valid, if its rows have no times
    """

    dataset: DatasetLike
    valid_from: UtcDatetime | None = None


def _as_source(value: Any) -> Any:
    # The result of an upstream step has a field "dataset" too; its other fields are not used here.
    if isinstance(value, dict) and "dataset" in value:
        return {name: value[name] for name in ("dataset", "valid_from") if value.get(name) is not None}
    return {"dataset": value}


class MaterializeFeaturesSpec(Spec):
    """Apply a Feast repository and write a window of its features to the online store.

    :param repo: the folder with ``feature_store.yaml``
    :param window: the time whose feature values are written
    :param feature_views: the names of the views to materialise; by default all that are served online
    :param chunk: the longest time that is materialised in one call
    :param apply: whether to register the definitions of the repository first, as ``feast apply`` does
    :param sources: the datasets to publish, by the name of a file source
    """

    repo: str = Field(min_length=1)
    window: Window
    feature_views: list[str] | None = None
    chunk: Duration = timedelta(days=31)
    apply: bool = True
    sources: dict[str, Annotated[PublishedSource, BeforeValidator(_as_source)]] = Field(default_factory=dict)


class MaterializeFeaturesResult(Result):
    """The views and chunks that were materialised.

    :param project: the Feast project
    :param feature_views: the materialised views
    :param chunks: the number of chunks that this attempt materialised
    :param chunks_skipped: the number of chunks that an earlier attempt had finished
    :param features: the Feast type of each feature, by view
    :param published: the number of rows published for each source; sources that already held these datasets are omitted
    """

    project: Name
    window: Window
    feature_views: list[str]
    chunks: int
    features: dict[str, dict[str, str]] = Field(default_factory=dict)
    chunks_skipped: int = 0
    published: dict[str, int] = Field(default_factory=dict)
