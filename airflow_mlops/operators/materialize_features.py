"""Feast: apply a repository and materialise a window of its features."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_mlops.core.calls import Spec
from airflow_mlops.operators.base import StepOperator
from airflow_mlops.stages.materialize_features.spec import MaterializeFeaturesSpec

if TYPE_CHECKING:
    from airflow.sdk import Context


class MaterializeFeaturesOperator(StepOperator):
    """Apply a Feast repository and write a window of its features to the online store, a chunk of time after another.

    Any repository that ``feast init`` makes works unchanged. A retry goes on after the last finished chunk.

    :param repo: the folder that holds ``feature_store.yaml``, as it is seen where the step runs (templated)
    :param window: the time whose feature values are written, such as ``{{ partition_key }}`` (templated)
    :param feature_views: names of the views to materialise; all that are served online unless given (templated)
    :param chunk: the longest span of time materialised in one go, a ``timedelta`` or text such as ``1D`` (templated)
    :param apply: register the repository's definitions first, as ``feast apply`` does
    :param sources: by the name of a file source of the repository, the dataset to publish as its rows: a dataset, the
        output of the task that made it, ``{"name": ..., "window": ...}`` for all windows of a name, or
        ``{"dataset": ..., "valid_from": ...}`` for a snapshot whose rows carry no time (templated)
    """

    step: ClassVar[str] = "materialize_features"
    spec: ClassVar[type[Spec]] = MaterializeFeaturesSpec

    template_fields: Sequence[str] = (
        *StepOperator.template_fields,
        "repo",
        "window",
        "feature_views",
        "chunk",
        "sources",
    )

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
        self.repo = repo
        self.window = window
        self.feature_views = feature_views
        self.chunk = chunk
        self.apply = apply
        self.sources = sources

    def build_spec(self, context: Context) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "window": self.window,
            "feature_views": self.feature_views,
            "chunk": self.chunk,
            "apply": self.apply,
            "sources": self.sources or {},
        }

    def finish(self, result: dict[str, Any], context: Context) -> None:
        self.describe_outlets(
            context,
            {
                "project": result["project"],
                "window": result["window"],
                "feature_views": result["feature_views"],
            },
        )
