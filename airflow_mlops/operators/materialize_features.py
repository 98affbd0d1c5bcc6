"""``MaterializeFeaturesOperator``, which writes feature values to Feast's online store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_mlops.operators.base import StepOperator

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.sdk import Context


class MaterializeFeaturesOperator(StepOperator):
    """Registers the definitions of a Feast repository and materializes its features of one time window.

    The feature values are written to the online store in chunks of time. A retry continues after the last finished
    chunk. The operator works with any repository that ``feast init`` creates.

    :param repo: path of the folder with ``feature_store.yaml``, on the machine on which the step runs
    :param window: the time window of the feature values to write, such as ``{{ partition_key }}``
    :param feature_views: names of the feature views; by default all feature views with ``online=True``, without stream
        feature views that have a function (``udf``)
    :param chunk: the longest time span to materialize at once: a ``timedelta``, or text such as ``1D``
    :param apply: whether to register the definitions of the repository first, like ``feast apply``
    :param sources: datasets that replace the rows of file sources in the repository, by the name of the source. A value
        is a dataset, the output of the task that wrote it, ``{"name": ..., "window": ...}`` for the datasets of a
        window, or ``{"dataset": ..., "valid_from": ...}`` for a snapshot without a time column
    """

    step = "materialize_features"
    cacheable = True

    def __init__(
        self,
        *,
        repo: str,
        window: str,
        feature_views: list[str] | None = None,
        chunk: str | timedelta = "31D",
        apply: bool = True,
        sources: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.assign_parameters(locals())

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(context, {name: result[name] for name in ("project", "window", "feature_views")})
