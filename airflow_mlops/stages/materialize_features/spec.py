"""Applying a Feast repository and materialising its features: what is asked and what comes back."""

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
    """Datasets that become the rows of one of the repository's file sources.

    :param dataset: a dataset, or the name of one, perhaps with a window
    :param valid_from: for a snapshot, whose rows carry no time: since when they have been true
    """

    dataset: DatasetLike
    valid_from: UtcDatetime | None = None


def _as_source(value: Any) -> Any:
    # The result of an upstream step has a field "dataset" as well, among others that are of no use here.
    if isinstance(value, dict) and "dataset" in value:
        return {name: value[name] for name in ("dataset", "valid_from") if value.get(name) is not None}
    return {"dataset": value}


class MaterializeFeaturesSpec(Spec):
    """Apply a Feast repository and write a window of its features to the online store.

    :param repo: the folder that holds ``feature_store.yaml``
    :param window: the time whose feature values are written
    :param feature_views: names of the views to materialise; all that are served online unless given
    :param chunk: the longest span of time materialised in one go
    :param apply: register the repository's definitions first, as ``feast apply`` does
    :param sources: by the name of a file source, the datasets to publish as its rows
    """

    repo: str = Field(min_length=1)
    window: Window
    feature_views: list[str] | None = None
    chunk: Duration = timedelta(days=31)
    apply: bool = True
    sources: dict[str, Annotated[PublishedSource, BeforeValidator(_as_source)]] = Field(default_factory=dict)


class MaterializeFeaturesResult(Result):
    """What was materialised.

    :param project: the Feast project
    :param feature_views: the views that were materialised
    :param chunks: chunks of time materialised by this try
    :param chunks_skipped: chunks that an earlier try had finished
    :param features: the Feast type of each feature, by view
    :param published: rows published for each source by this task; sources that held these datasets already are left out
    """

    project: Name
    window: Window
    feature_views: list[str]
    chunks: int
    features: dict[str, dict[str, str]] = Field(default_factory=dict)
    chunks_skipped: int = 0
    published: dict[str, int] = Field(default_factory=dict)
